# One image for all processes. The container's arguments are the `tidings` command (compose.yaml).
FROM python:3.11-slim

RUN useradd --system --uid 10001 --create-home --home-dir /var/lib/tidings tidings

WORKDIR /opt/tidings
COPY requirements.lock ./
RUN pip install --no-cache-dir --require-hashes -r requirements.lock
COPY pyproject.toml README.md LICENSE ./
COPY src ./src
RUN pip install --no-cache-dir --no-deps --no-build-isolation .

USER tidings
WORKDIR /var/lib/tidings
ENV TIDINGS_DATA_DIR=/var/lib/tidings/data \
    TIDINGS_HOST=0.0.0.0
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s \
    CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:8000/health/ready', timeout=4)"]

ENTRYPOINT ["tidings"]
CMD ["serve"]
