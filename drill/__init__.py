"""Throwaway local droplets and the drills run on them."""
