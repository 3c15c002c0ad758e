# recon3d on CPUs, with the face networks inside: it needs no network when it runs.
#
#   docker build -t recon3d .
#   docker run --rm --network none -v "$PWD:/data" recon3d photo portrait.jpg --out heads
#
# /data is where inputs are read and results written; the user (1000, or --user) has to be allowed to write there.

FROM python:3.11-slim-bookworm AS build
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN python -m venv /opt/recon3d
ENV PATH=/opt/recon3d/bin:$PATH
# First what changes least, so that a change of the code does not fetch PyTorch again.
RUN pip install torch==2.13.0 --index-url https://download.pytorch.org/whl/cpu
WORKDIR /src
COPY . .
ARG EXTRAS=usd,stream,tables,serve
RUN pip install -c constraints.txt ".[${EXTRAS}]" \
    && RECON3D_CACHE=/opt/recon3d/cache recon3d models --fetch --quiet

FROM python:3.11-slim-bookworm
LABEL org.opencontainers.image.title="recon3d" \
      org.opencontainers.image.licenses="Apache-2.0"
RUN useradd --uid 1000 --create-home recon3d && install -d -o recon3d /data
COPY --from=build /opt/recon3d /opt/recon3d
# Numba keeps what it compiled where any --user may write.
ENV PATH=/opt/recon3d/bin:$PATH \
    RECON3D_CACHE=/opt/recon3d/cache \
    RECON3D_OFFLINE=1 \
    NUMBA_CACHE_DIR=/tmp/numba \
    HOME=/tmp
USER 1000
WORKDIR /data
VOLUME ["/data"]
ENTRYPOINT ["recon3d"]
CMD ["--help"]
