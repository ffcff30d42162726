# The worker: run-time packages from requirements.lock (hashes checked, nothing resolved), this package, no compiler, no
# pip, no root. Runs with a read-only root file system, given /tmp (sockets, scratch) and /data (the parties' files).

FROM python:3.10-slim-bookworm AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore
RUN python -m venv --without-pip /opt/sfworker
WORKDIR /src
# First the packages alone, so that a change of our code does not install them anew.
COPY requirements.lock ./
RUN sed '/^# --- development/,$d' requirements.lock > runtime.lock \
    && pip --python /opt/sfworker/bin/python install --no-deps --require-hashes -r runtime.lock
COPY pyproject.toml README.md LICENSE ./
COPY sfworker ./sfworker
RUN pip --python /opt/sfworker/bin/python install --no-deps --no-build-isolation .

FROM python:3.10-slim-bookworm
# libgomp1: SecretFlow's native libraries link to it. tini: a party process that is killed may leave children (PSI runs
# `sort`); in a container they become process 1's, and neither the daemon nor its template process reaps children
# that it did not start. tini does, and passes SIGTERM on to the daemon alone, which ends its own processes.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends libgomp1 tini \
    && rm -rf /var/lib/apt/lists/* \
    && python -m pip uninstall --yes --root-user-action=ignore setuptools wheel pip \
    && groupadd --gid 10001 sfworker \
    && useradd --uid 10001 --gid sfworker --home-dir /data --no-create-home --shell /usr/sbin/nologin sfworker \
    && install --directory --owner=sfworker --group=sfworker --mode=0750 /data
COPY --from=build /opt/sfworker /opt/sfworker
ENV PATH=/opt/sfworker/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    HOME=/tmp \
    SFWORKER_RUN_DIR=/tmp \
    SFWORKER_DATA_ROOTS=/data \
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
