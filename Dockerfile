# An image that serves an exported detector, without torch:
#   docker build -t focaldet .
#   docker run --rm -p 8000:8000 -v "$PWD/models:/models:ro" focaldet serve /models/model.onnx --host 0.0.0.0
FROM python:3.12-slim
COPY . /src
RUN pip install --no-cache-dir -c /src/constraints.txt '/src[serve]' && rm -r /src
RUN useradd --create-home focaldet
USER focaldet
WORKDIR /home/focaldet
EXPOSE 8000
ENTRYPOINT ["focaldet"]
CMD ["--help"]
