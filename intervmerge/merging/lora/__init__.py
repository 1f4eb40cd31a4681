"""Task vectors of low rank: what LoRA trains, merged without a dense copy of each task."""
