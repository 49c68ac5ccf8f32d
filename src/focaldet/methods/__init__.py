"""One page per paper: what distinguishes each detector from the others."""
