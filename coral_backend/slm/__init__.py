"""How does a small language model learn from an LLM's noisy labels? Encoder, networks, one training loop, inference."""

import os

# Threads of OpenMP spin while they wait for one another. On a machine that does something else as well (Label Studio, the
# web process) a spinning thread takes the time of the one it waits for: a training that shared two cores took 158 s
# instead of 21. Must be set before torch is loaded; without effect on results.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
