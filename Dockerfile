# Three stages: the viewer is built with node, the compiled part with gcc; the server runs without either.
FROM node:22-bookworm-slim AS viewer
WORKDIR /build/viewer/web
COPY viewer/web/package.json viewer/web/package-lock.json viewer/web/.npmrc ./
RUN npm ci --ignore-scripts
COPY viewer/web ./
RUN npm run build

FROM python:3.11-bookworm AS native
WORKDIR /build/native
COPY pacs/native ./
RUN python make.py

FROM python:3.11-slim-bookworm
# The letters of annotations on rendered images: without them names lose their accents.
# hadolint ignore=DL3008
RUN apt-get update && apt-get install --no-install-recommends -y fonts-dejavu-core && rm -rf /var/lib/apt/lists/*
WORKDIR /opt/m3dicom
COPY pyproject.toml constraints.txt hatch_build.py README.md LICENSE ./
COPY pacs pacs
COPY dicomweb dicomweb
COPY analysis analysis
COPY viewer viewer
COPY --from=viewer /build/viewer/static viewer/static
COPY --from=native /build/native/lib pacs/native/lib
RUN M3DICOM_SKIP_VIEWER=1 pip install --no-cache-dir --constraint constraints.txt ".[mesh,s3,postgresql,redis]" \
    && useradd --system --uid 10001 --create-home --home-dir /var/lib/m3dicom m3dicom
USER 10001
VOLUME /var/lib/m3dicom
ENV M3DICOM_DATA=/var/lib/m3dicom
EXPOSE 8080 11112
HEALTHCHECK --interval=10s --timeout=3s CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8080/health/ready', timeout=2)"]
ENTRYPOINT ["m3dicom"]
CMD ["serve"]
