# The worker: run-time packages from requirements.lock (hashes checked, nothing resolved), this package, no compiler, no
# pip, no root. Runs with a read-only root file system, given /tmp (sockets, scratch) and /data (the parties' files).

# By digest; `make images` renews it.
ARG BASE=python:3.10-slim-bookworm@sha256:68d914ec641a0b69267ce65184d000a2bc3a9ee2590ab702b82250ab2385735a

FROM ${BASE} AS build
# Not empty: with Ray, for workers whose parties are placed on a cluster, and for its nodes.
ARG RAY=
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore
RUN python -m venv --without-pip /opt/sfworker
WORKDIR /src
# First the packages alone, so that a change of our code does not install them anew.
COPY requirements.lock ./
RUN sed '/^# --- build/,$d' requirements.lock > runtime.lock \
    && sed '1,/^# --- build/d;/^# --- ray/,$d' requirements.lock > build.lock \
    && sed '/^# --- development/,$d' requirements.lock > ray.lock \
    && if [ -n "$RAY" ]; then chosen=ray.lock; else chosen=runtime.lock; fi \
    && pip --python /opt/sfworker/bin/python install --no-deps --require-hashes -r "$chosen" \
    && pip install --no-deps --require-hashes -r build.lock
COPY pyproject.toml README.md LICENSE CHANGELOG.md ./
COPY sfworker ./sfworker
RUN pip wheel --no-deps --no-build-isolation --wheel-dir /tmp/wheel . \
    && pip --python /opt/sfworker/bin/python install --no-deps /tmp/wheel/*.whl

FROM ${BASE}
# libgomp1: SecretFlow's native libraries link to it. tini: a party process that is killed may leave children (PSI runs
# `sort`); in a container they become process 1's, and neither the daemon nor its template process reaps children
# that it did not start. tini does, and passes SIGTERM on to the daemon alone, which ends its own processes.
# Their versions are those of the base image's Debian, which keeps no older ones.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends libgomp1 tini \
    && rm -rf /var/lib/apt/lists/* \
    && python -m pip uninstall --yes --root-user-action=ignore setuptools wheel pip \
    && groupadd --gid 10001 sfworker \
    && useradd --uid 10001 --gid sfworker --home-dir /nonexistent --no-create-home --shell /usr/sbin/nologin sfworker \
    && install --directory --owner=sfworker --group=sfworker --mode=0750 /data /logs
COPY --from=build /opt/sfworker /opt/sfworker
ENV PATH=/opt/sfworker/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    HOME=/tmp \
    SFWORKER_RUN_DIR=/tmp \
    SFWORKER_DATA_ROOTS='{"alice":"/data/alice","bob":"/data/bob"}' \
    SFWORKER_JOB_LOGS=/logs \
    SFWORKER_HEALTH=unix:/tmp/sfworker-health
WORKDIR /data
USER 10001:10001
# SIGTERM drains: no new jobs, SFWORKER_DRAIN_TIMEOUT seconds for the running ones. Stop with a longer grace period
# (docker stop --time), or what is left of them is killed and starts again elsewhere when its lease has run out.
STOPSIGNAL SIGTERM
# Healthy is who could claim a job now; Redis being away shows, too, and is no reason to restart what runs meanwhile. For
# an orchestrator that restarts the unhealthy: add "--live". -I: nothing is imported from /data, the working directory.
HEALTHCHECK --interval=15s --timeout=10s --start-period=60s --retries=3 \
    CMD ["python", "-I", "-m", "sfworker.daemon.health"]
# Exec form: no shell between the signals and us. The log goes to standard output.
ENTRYPOINT ["tini", "--", "sfworker"]
CMD ["run", "--group", "secretflow"]
