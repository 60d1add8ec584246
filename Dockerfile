# The page in a container. Results, photos and downloaded models stay in the volume.
#
#   docker build -t customize .
#   docker run --rm -it -p 127.0.0.1:7860:7860 -v customize:/data -e CUSTOMIZE_WEB_PASSWORD="a password of yours" customize
#
# With an NVIDIA GPU (and its container toolkit on the host), `--gpus all` for `docker run`, and another build:
#
#   docker build -t customize --build-arg BASE=nvidia/cuda:13.0.2-base-ubuntu24.04 \
#     --build-arg TORCH_INDEX=https://download.pytorch.org/whl/cu130 .
#
# Any other command follows the name of the image: docker run ... customize customize doctor
ARG BASE=ubuntu:24.04
FROM ${BASE}
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu

RUN apt-get update \
    && apt-get install -y --no-install-recommends python3 python3-venv \
    && rm -rf /var/lib/apt/lists/*
RUN python3 -m venv /opt/customize
ENV PATH=/opt/customize/bin:$PATH
RUN pip install --no-cache-dir "torch>=2.10,<2.14" --index-url ${TORCH_INDEX}
COPY . /source
RUN pip install --no-cache-dir "/source[web]"

RUN mkdir /data && chown 1000:1000 /data
USER 1000:1000
ENV HOME=/data
WORKDIR /data
VOLUME /data
EXPOSE 7860
CMD ["customize", "web", "--listen", "--port", "7860", "--no_browser"]
