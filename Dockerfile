# bnn-keras with its command as entry point.
#   docker build -t bnn-keras .
#   docker run --rm -v "$PWD:/work" bnn-keras train lenet5
# For a GPU:
#   docker build --build-arg BASE=tensorflow/tensorflow:2.19.0-gpu -t bnn-keras .
#   docker run --rm --gpus all -v "$PWD:/work" bnn-keras train lenet5
ARG BASE=python:3.11-slim
FROM ${BASE}

COPY . /opt/bnn-keras
RUN cd /opt/bnn-keras && python3 -m pip install --no-cache-dir -c requirements.lock .

WORKDIR /work
ENTRYPOINT ["bnnk"]
