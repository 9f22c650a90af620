"""What a network costs: parameters, MACs and activations of one forward pass. Knows no trainer."""
