"""What a finished run shows: embeddings, clusters, volumes, scores, pictures and the report.

Functions on arrays; the verbs put them together. In every file Z is the latent dimension, N the number of
particles, k the number of clusters, D the box. Clusters and volumes are numbered from 0 everywhere: in file
names, in pictures and on the command line.
"""
