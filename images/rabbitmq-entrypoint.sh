#!/bin/sh
# Starts RabbitMQ as its own user; data folders that come from the host become its.
set -eu
if [ "$(id -u)" = 0 ]; then
	chown -R rabbitmq:rabbitmq /var/lib/rabbitmq /var/log/rabbitmq
	exec setpriv --reuid rabbitmq --regid rabbitmq --clear-groups "$0" "$@"
fi
export HOME=/var/lib/rabbitmq
exec /usr/lib/rabbitmq/bin/rabbitmq-server "$@"
