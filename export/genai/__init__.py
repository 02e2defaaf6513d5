"""What other people's runtimes for VLMs ask of a bundle beyond its graphs, so that they load the folder as it is."""
