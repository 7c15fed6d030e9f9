"""From clips to training batches. Sample number i is a pure function of the seed and i, so that a resumed run sees
exactly the samples that the unbroken run would have seen."""
