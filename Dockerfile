# A server without torch: docker build -t model . && docker run -p 8000:8000 -e FULGURITE_TOKEN=secret \
#   -v ./runs/first/export:/model:ro model
FROM python:3.11-slim

WORKDIR /app
COPY constraints.txt ./
RUN pip install --no-cache-dir -c constraints.txt fastapi httptools numpy onnxruntime pillow uvicorn uvloop
COPY src/__init__.py src/__main__.py src/errors.py src/pixels.py src/
COPY src/deploy src/deploy
USER 65534
EXPOSE 8000
HEALTHCHECK CMD ["python", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:8000/readyz', timeout=3)"]
ENTRYPOINT ["python", "-m", "src", "serve", "--model", "/model", "--host", "0.0.0.0"]
