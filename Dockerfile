# An image of the program and a directory for its state:
#   docker build -t p2p-gossip . && docker run -p 8080:8080 -v mesh:/state p2p-gossip --name alpha
FROM rust:1.88-bookworm AS build
WORKDIR /src
COPY . .
RUN make static && mkdir -p /image/state && cp target/static/p2p-gossip /image/

FROM scratch
COPY --from=build /image/p2p-gossip /p2p-gossip
# A volume takes its owner from this directory. The node makes a private directory in the volume. The image has no
# file of users, so the number belongs to no named user.
COPY --from=build --chown=65532:65532 /image/state /state
USER 65532:65532
VOLUME /state
EXPOSE 8080
STOPSIGNAL SIGTERM
ENTRYPOINT ["/p2p-gossip", "--state", "/state/node"]
