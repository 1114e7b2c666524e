# An image with bnn-keras whose entry point is its command.
#   docker build -t bnn-keras .
#   docker run --rm -v "$PWD:/work" bnn-keras train lenet5
# For a GPU, install NVIDIA's libraries with TensorFlow:
#   docker build --build-arg EXTRAS=cuda -t bnn-keras .
#   docker run --rm --gpus all -v "$PWD:/work" bnn-keras train lenet5
# or use an image that has them: --build-arg BASE=tensorflow/tensorflow:2.19.0-gpu
# Several extras are separated by commas: --build-arg EXTRAS=cuda,openvino
ARG BASE=python:3.11-slim
FROM ${BASE}

ARG EXTRAS=
COPY . /opt/bnn-keras
RUN cd /opt/bnn-keras && python3 -m pip install --no-cache-dir -c requirements.lock ".${EXTRAS:+[${EXTRAS}]}"

WORKDIR /work
ENTRYPOINT ["bnnk"]
