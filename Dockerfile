# SPDX-License-Identifier: Apache-2.0
# The driver's image; docs/reference/image.md says what is inside and why, scripts/image builds it.

# a distribution whose python3-rbd serves Python 3.11 or newer: Debian 12, Ubuntu 24.04 or newer
ARG BASE=docker.io/library/debian
ARG RELEASE=trixie-slim
# what the wheel cannot ask git in here
ARG VERSION=0.0.0

# what both stages stand on, so that the environment is made by the interpreter that runs it
FROM ${BASE}:${RELEASE} AS ceph
# a rebuild is to take the distribution's security updates, so versions are left to it
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends python3-rados python3-rbd \
    && apt-get clean \
    && rm -rf /var/lib/apt/lists/* /var/cache/debconf/*-old /var/log/apt /var/log/*.log \
    # nobody in here is to become anybody else
    && find / -xdev -type f -perm /6000 -exec chmod a-s {} +

FROM ceph AS build
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends python3-venv \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /source
COPY LICENSE README.md pyproject.toml ./
COPY csi_addons_rbd csi_addons_rbd
ARG VERSION
# how to reach a package index, and whom to trust on the way, is the builder's business and stays
# out of the image; without the two secrets pip asks the public one
RUN --mount=type=secret,id=pip.conf --mount=type=secret,id=ca.crt \
    export PIP_CONFIG_FILE=/run/secrets/pip.conf PIP_NO_CACHE_DIR=1 \
        SETUPTOOLS_SCM_PRETEND_VERSION="${VERSION}" \
    && python3 -m venv /tools \
    && /tools/bin/pip wheel --no-deps --wheel-dir /wheel . \
    && python3 -m venv --system-site-packages --without-pip /opt/csi-addons-rbd \
    && /tools/bin/pip --python /opt/csi-addons-rbd/bin/python install --no-compile /wheel/*.whl
# compiled modules that are known by the time of their source do not survive: an engine rounds
# times when it packs a layer, and a read-only root would have them compiled at every start
RUN python3 -m compileall -q --invalidation-mode unchecked-hash /opt/csi-addons-rbd/lib

FROM ceph
COPY --from=build /opt/csi-addons-rbd /opt/csi-addons-rbd
# the root file system may be read-only: modules were compiled above
ENV PATH=/opt/csi-addons-rbd/bin:/usr/local/bin:/usr/bin:/bin \
    LANG=C.UTF-8 \
    PYTHONDONTWRITEBYTECODE=1
# numeric, as runAsNonRoot asks; the name of a user is needed nowhere
USER 10001:10001
ENTRYPOINT ["csi-addons-rbd"]
# what to serve comes as more arguments, or as CSI_ADDONS_RBD_ENDPOINT and its like
CMD ["serve"]

ARG VERSION
ARG REVISION=unknown
ARG CREATED=1970-01-01T00:00:00Z
LABEL org.opencontainers.image.title="csi-addons-rbd" \
      org.opencontainers.image.description="CSI-Addons replication driver for Ceph RBD" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.created="${CREATED}"
