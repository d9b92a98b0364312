"""One thread per process, as a lane has: two that wait for each other crawl on a busy machine."""

import torch

torch.set_num_threads(1)
