"""Reading Wan's weights, in diffusers' layout or as they were released."""
