# The image of kuberay.yaml, for head and workers alike: the versions of constraints.txt, and what KubeRay's probes call.
#   docker build --tag REGISTRY/stillpoint:0.1.0 . && docker push REGISTRY/stillpoint:0.1.0
FROM python:3.11.14-slim-bookworm

RUN apt-get update \
    && apt-get install --yes --no-install-recommends curl procps wget \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --create-home --uid 1000 ray

WORKDIR /home/ray/stillpoint
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY suite suite
COPY analysis analysis
COPY experiments experiments
RUN pip install --no-cache-dir --constraint constraints.txt ".[cluster]" && chown -R ray:ray /home/ray

USER ray
ENV RAY_USAGE_STATS_ENABLED=0
