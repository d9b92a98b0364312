"""Stillpoint: do two encoders trained jointly on a contrastive loss reach a stationary point?"""
