"""What serving takes: the same requests answered by the base, by its adapter and merged, in turns."""
