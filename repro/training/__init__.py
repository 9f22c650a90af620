"""What happens within the process of one run, around Lightning's loop: how it begins, saves, goes on and ends."""
