"""The physics of image formation, as pure functions on tensors. Every convention is stated here, once.

Axes
    A volume is indexed [z, y, x], an image [y, x]; vectors are written (x, y, z) and (x, y).
    The origin of a box of size D is the element D // 2 along every axis, in real and in Fourier space.
Fourier transform
    F(k) = sum_r f(r) exp(-2 pi i k.r), with r counted from the origin and k in cycles per pixel
    (or 1/A where the name says so). The inverse carries the factor 1/D^n. Hartley: H = Re F - Im F.
Rotation
    A particle's rotation R takes a point r of the volume to R r; the image is the projection of the rotated
    volume along z. Its transform is the central slice of the volume at k3 = R^T (kx, ky, 0), that is
    (kx, ky, 0) @ R for row vectors.
    RELION: R = Euler_angles2matrix(rot, tilt, psi). cryoSPARC: R = expmap(pose)^T.
Shift
    `shift` is RELION's origin: moving the image by +shift centres it. The model image is therefore the
    centred projection moved by -shift, a factor exp(+2 pi i k.shift).
CTF
    c(k) = scale exp(-B k^2 / 4) [sqrt(1 - w^2) sin g + w cos g],
    g = pi lambda df(theta) k^2 - pi/2 Cs lambda^3 k^4 + phase_shift; underfocus is positive and c(0) = +w.
    This is RELION's sign; cryoDRGN's is its negative.
Contrast
    data_sign * image = CTF * slice + noise: data_sign is +1 where protein is bright (RELION's habit) and
    -1 where it is dark (cryoSPARC's blob/sign = -1).
Units
    Lengths in pixels (`_px`) or Angstrom (`_A`), angles in degrees (`_deg`), voltage in kV, Cs in mm,
    B-factors in A^2 (`_A2`).
"""
