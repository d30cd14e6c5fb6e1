# syntax=docker/dockerfile:1
# One image a binary: `--target publisher`, `--target runtime`, `--target demonctl`.

FROM rust:1.95-bookworm AS build
WORKDIR /src
COPY . .
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/src/target \
    cargo build --release --locked -p publisher -p subscriber -p demonctl \
    && install -D -t /out target/release/demon-publisher target/release/demon-runtime target/release/demonctl

FROM debian:bookworm-slim AS base
RUN apt-get update \
    && apt-get install --yes --no-install-recommends ca-certificates \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --uid 10001 --home-dir /var/lib/demon --create-home --shell /usr/sbin/nologin demon
WORKDIR /var/lib/demon
USER demon

FROM base AS publisher
COPY --from=build /out/demon-publisher /usr/local/bin/demon-publisher
ENTRYPOINT ["/usr/local/bin/demon-publisher"]
CMD ["serve"]

FROM base AS runtime
COPY --from=build /out/demon-runtime /usr/local/bin/demon-runtime
# glibc keeps what a large download freed unless told where to stop: resident memory stays near what is in use.
ENV MALLOC_TRIM_THRESHOLD_=131072
ENTRYPOINT ["/usr/local/bin/demon-runtime"]

FROM base AS demonctl
COPY --from=build /out/demonctl /usr/local/bin/demonctl
ENTRYPOINT ["/usr/local/bin/demonctl"]
