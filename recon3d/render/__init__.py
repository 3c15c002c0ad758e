"""Drawing the head: camera, rasterizer, shading, pictures for people, and the photograph's texture."""
