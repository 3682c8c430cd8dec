"""Tuners that PEFT lacks, written against its interfaces; unlike ``harness.methods`` these import torch and peft."""
