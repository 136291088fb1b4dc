#!/bin/bash
# Simulate, train and discover; DRGN_DATA names the folder of the atomic models. Writes to the current folder.
set -e
here=$(dirname "$(realpath "$0")")
for set in compositional_small ribosome_parts noncontiguous_small cooperative_small uniform_small ribosome_head; do
  n=4000; [ $set = ribosome_parts ] && n=5000
  [ -f sim/$set/particles.star ] || python -m drgn.simulate set=$set n_particles=$n output=sim/$set
  for z in 4 8; do
    run=runs/${set}_z$z
    [ -f $run/latents.npz ] || python -m drgn.train dataset=custom dataset.particles=sim/$set/particles.star \
      dataset.box_size=32 dataset.cache=cache/$set model=128x3 latent.zdim=$z warmstart=subspace epochs=1 \
      trainer=cpu analyze=false output=$run
    python -m drgn.discover run=$run
    python -m drgn.landscape run=$run
  done
done
python "$here/collect.py" > "$here/results.json"
