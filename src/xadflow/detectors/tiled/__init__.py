"""Large images at full size: any detector of one small image, window by window."""
