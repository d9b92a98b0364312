"""For all tests: one thread per process, as a lane has; two threads that wait for each other on a busy machine crawl."""

import torch

torch.set_num_threads(1)
