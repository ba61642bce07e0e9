"""What ``lightbsr upscale`` and ``lightbsr.Upscaler`` are made of: files in and out, tiles, engines."""
