#!/usr/bin/env bash
# Brings up a Warren cluster on this machine: packages, dockerd, the binary, images, identities, the control plane as
# static pods, the agent under a supervisor. Run it again to upgrade. See --help.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

data=/var/lib/warren
manifests=/etc/warren/manifests
prefix=/usr/local/bin
node=$(hostname | tr '[:upper:]' '[:lower:]' | tr -c 'a-z0-9.\n-' '-' | sed 's/^[-.]*//; s/[-.]*$//')
node=${node:-node-1}
api_port=6443 node_port=10250 amqp_port=5672 management_port=15672
binary=
action=install
unit="warren-agent"

usage() {
	cat <<-EOF
		installer.sh: a Warren cluster on this machine. A second run upgrades it and breaks nothing.

		  ./installer.sh [options]     install or upgrade
		  ./installer.sh --down        take down what was put up; data, binary and images stay
		  ./installer.sh --purge       the same, and remove data, binary and the images it made

		options
		  --data-dir DIR          state, keys, passwords           ($data)
		  --manifests-dir DIR     the folder of static pods        ($manifests)
		  --node-name NAME        this node's name                 ($node)
		  --binary FILE           a static warren binary to use, in place of building one
		  --api-port PORT         ($api_port)    --node-port PORT        ($node_port)
		  --amqp-port PORT        ($amqp_port)    --management-port PORT  ($management_port)
		  --prefix DIR            where the binary goes            ($prefix)
	EOF
}

while [ $# -gt 0 ]; do
	case $1 in
	--data-dir | --manifests-dir | --node-name | --binary | --prefix | --*-port)
		[ $# -ge 2 ] || { echo "installer: $1 needs a value" >&2; exit 2; }
		case $1 in
		--data-dir) data=$(realpath -m "$2") ;;
		--manifests-dir) manifests=$(realpath -m "$2") ;;
		--node-name) node=$2 ;;
		--binary) binary=$(realpath -m "$2") ;;
		--prefix) prefix=$(realpath -m "$2") ;;
		--api-port) api_port=$2 ;;
		--node-port) node_port=$2 ;;
		--amqp-port) amqp_port=$2 ;;
		--management-port) management_port=$2 ;;
		*) echo "installer: unknown option $1; see --help" >&2; exit 2 ;;
		esac
		shift
		;;
	--down) action=down ;;
	--purge) action=purge ;;
	-h | --help) usage && exit 0 ;;
	*) echo "installer: unknown option $1; see --help" >&2; exit 2 ;;
	esac
	shift
done

log=$data/log/install.log
warren=$prefix/warren
kubeconfig=$data/kubeconfig/admin.conf
# A second cluster on this machine, under another data folder, gets a unit of its own.
[ "$data" = /var/lib/warren ] || unit=warren-agent-$(printf %s "$data" | sha256sum | cut -c1-8)

has_systemd() { [ -d /run/systemd/system ]; }
docker_answers() { timeout 10 docker info >/dev/null 2>&1; }
# What a step wants the person to know. Steps run in a subshell with their output in the log; this goes past it.
say() { echo "      $*" >&3; }

total=8 number=0
# step <title> <remedy> <function>: runs it with its output in the log; a failure names the step, the log, the remedy.
step() {
	local title=$1 remedy=$2 function=$3 begin=$SECONDS status
	number=$((number + 1))
	printf '[%d/%d] %s\n' "$number" "$total" "$title"
	echo "=== $(date -Is) $title" >>"$log"
	# Not in a condition: there `set -e` would not hold inside.
	set +e
	(set -e; "$function") 3>&1 >>"$log" 2>&1 </dev/null
	status=$?
	set -e
	if [ $status -ne 0 ]; then
		{
			printf '\nFAILED in step %d of %d: %s\n' "$number" "$total" "$title"
			printf 'The end of its log:\n'
			tail -n 15 "$log" | sed 's/^/    /'
			printf 'Log:    %s\nRemedy: %s\nThen run this again; it goes on where it stopped.\n' "$log" "$remedy"
		} >&2
		exit 1
	fi
	[ $((SECONDS - begin)) -lt 2 ] || printf '      done in %d s\n' $((SECONDS - begin))
}

install_packages() {
	local wanted=() missing=() package
	# What runs pods, what serves Services, what images are made of.
	command -v dockerd >/dev/null || wanted+=(docker.io)
	command -v nft >/dev/null || wanted+=(nftables)
	command -v ip >/dev/null || wanted+=(iproute2)
	command -v iptables >/dev/null || wanted+=(iptables)
	command -v debootstrap >/dev/null || wanted+=(debootstrap)
	{ command -v busybox && ! ldd "$(command -v busybox)"; } >/dev/null 2>&1 || wanted+=(busybox-static)
	command -v cc >/dev/null || wanted+=(gcc)
	[ -e /usr/include/stdio.h ] || wanted+=(libc6-dev)
	[ -e /etc/ssl/certs/ca-certificates.crt ] || wanted+=(ca-certificates)
	for package in "${wanted[@]}"; do
		dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing+=("$package")
	done
	if [ ${#missing[@]} -eq 0 ]; then
		say "nothing is missing"
		return
	fi
	say "installing ${missing[*]}"
	apt-get update -q
	DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "${missing[@]}"
}

build_binary() {
	local target cargo=cargo built
	if [ -n "$binary" ]; then
		[ -x "$binary" ] || { echo "$binary is not there"; return 1; }
		built=$binary
	else
		# Under sudo the toolchain is the calling user's.
		if ! command -v cargo >/dev/null; then
			cargo=$(eval echo "~${SUDO_USER:-root}")/.cargo/bin/cargo
			[ -x "$cargo" ] || { echo "cargo is not there"; return 1; }
			PATH=$(dirname "$cargo"):$PATH
		fi
		target=$(uname -m)-unknown-linux-gnu
		say "cargo build --release (some minutes the first time; tail -f $log)"
		cd "$here"
		# Static, so that the image needs nothing but this file.
		RUSTFLAGS="${RUSTFLAGS:-} -C target-feature=+crt-static" \
			"$cargo" build --release --locked --target "$target" --package warren
		built=${CARGO_TARGET_DIR:-$here/target}/$target/release/warren
	fi
	mkdir -p "$prefix"
	if cmp -s "$built" "$warren"; then
		say "$warren is up to date"
	else
		# In one step, also while the old one runs.
		install -m 755 "$built" "$warren.new"
		mv "$warren.new" "$warren"
		say "$warren: $("$warren" --version)"
	fi
}

start_docker() {
	if docker_answers; then
		say "dockerd runs already and is left as it is"
		[ "$(docker info -f '{{.LiveRestoreEnabled}}')" = true ] ||
			say "note: its live-restore is off: containers end when dockerd does (\"live-restore\": true in /etc/docker/daemon.json)"
		return
	fi
	if has_systemd; then
		if [ ! -e /etc/docker/daemon.json ]; then
			mkdir -p /etc/docker
			echo '{ "live-restore": true }' >/etc/docker/daemon.json
			echo docker-config >>"$data/run/put-up"
		fi
		systemctl enable --now docker
		say "started dockerd (systemd unit docker, live-restore)"
	else
		local live=--live-restore
		# Given in the file as well, dockerd refuses to start.
		grep -qs live-restore /etc/docker/daemon.json && live=
		# shellcheck disable=SC2086 # no argument where it is empty
		setsid "$warren" supervise --data-dir "$data" --name dockerd -- dockerd $live </dev/null >>"$log" 2>&1 3>&- 9>&- &
		echo dockerd >>"$data/run/put-up"
		say "started dockerd with live-restore (no systemd here; log: $data/log/dockerd.log)"
	fi
	for _ in $(seq 60); do
		docker_answers && return
		sleep 0.5
	done
	echo "dockerd does not answer; the end of its log:"
	tail -n 20 "$data/log/dockerd.log" 2>/dev/null || journalctl -n 20 -u docker --no-pager
	return 1
}

warren_images() { docker images --format '{{.Repository}}:{{.Tag}}' --filter reference='warren/*' | sort; }
# Only what this cluster's installation made is its own to remove.
note_images() {
	local made
	made=$(comm -13 <(echo "$1") <(warren_images) | sed 's/^/image /')
	[ -z "$made" ] || echo "$made" >>"$data/run/put-up"
}

build_images() {
	# Not local: the trap runs after the function. A step has a shell of its own.
	before=$(warren_images)
	trap 'note_images "$before"' EXIT
	"$here/images/build.sh" pause >&3
	"$here/images/build.sh" busybox >&3
	"$here/images/build.sh" warren "$warren" >&3
	# The choice stays: the data of one version of RabbitMQ is not always readable by another.
	if [ ! -s "$data/broker/image" ]; then
		if timeout 10 docker manifest inspect rabbitmq:4-management >/dev/null 2>&1; then
			say "a registry answers: pulling rabbitmq:4-management"
			docker pull -q rabbitmq:4-management
			echo rabbitmq:4-management >"$data/broker/image"
		else
			say "no registry answers: RabbitMQ comes from Debian's packages"
			"$here/images/build.sh" rabbitmq >&3
			echo warren/rabbitmq:1 >"$data/broker/image"
		fi
	elif grep -q '^warren/' "$data/broker/image"; then
		"$here/images/build.sh" rabbitmq >&3
	fi
}

make_identities() {
	"$warren" init --data-dir "$data" --node "$node" --server "https://127.0.0.1:$api_port"
	local config=$data/broker/rabbitmq
	# RabbitMQ runs as a user of its own; what is in here are hashes, and the folder above is root's alone.
	mkdir -p "$config"
	chmod 755 "$config"
	echo '[rabbitmq_management].' >"$config/enabled_plugins"
	cat >"$config/rabbitmq.conf" <<-EOF
		listeners.tcp.1 = 127.0.0.1:$amqp_port
		management.tcp.ip = 127.0.0.1
		management.tcp.port = $management_port
		load_definitions = /etc/warren/rabbitmq/definitions.json
		log.console = true
		log.console.level = info
		log.file = false
	EOF
	chmod 644 "$config"/*
}

write_manifests() {
	local image tag config file
	# As images/build.sh names it; "latest" may be another cluster's.
	tag=warren/warren:$(sha256sum "$warren" | cut -c1-12)
	image=$(cat "$data/broker/image")
	config=$(cat "$data/broker/rabbitmq/rabbitmq.conf" "$data/broker/rabbitmq/definitions.json" | sha256sum | cut -c1-16)
	mkdir -p "$manifests" "$data/rabbitmq" "$data/server"
	for file in broker apiserver controllers; do
		# First under a name that the agent does not read, then in one step.
		sed -e "s|@DATA@|$data|g; s|@WARREN_IMAGE@|$tag|g; s|@BROKER_IMAGE@|$image|g" \
			-e "s|@API_PORT@|$api_port|g; s|@AMQP_PORT@|$amqp_port|g; s|@MANAGEMENT_PORT@|$management_port|g" \
			-e "s|@DIST_PORT@|$((amqp_port + 20000))|g; s|@BROKER_CONFIG_HASH@|$config|g" \
			"$here/manifests/$file.yaml" >"$manifests/.$file.new"
		mv "$manifests/.$file.new" "$manifests/$file.yaml"
		say "$manifests/$file.yaml"
	done
}

agent_arguments() {
	printf '%s\n' agent "--data-dir=$data" "--node-name=$node" --runtime=docker "--manifests=$manifests" \
		"--server=https://127.0.0.1:$api_port" "--broker=amqp://127.0.0.1:$amqp_port" "--bind=127.0.0.1:$node_port"
}

start_agent() {
	local arguments
	mapfile -t arguments < <(agent_arguments)
	if has_systemd; then
		cat >"/etc/systemd/system/$unit.service" <<-EOF
			[Unit]
			Description=Warren agent ($data)
			After=network.target docker.service
			[Service]
			ExecStart=$warren ${arguments[*]}
			Restart=always
			RestartSec=1
			# Containers are dockerd's children, and a restart of the agent must not touch them.
			KillMode=process
			LimitNOFILE=65536
			[Install]
			WantedBy=multi-user.target
		EOF
		systemctl daemon-reload
		systemctl enable "$unit"
		systemctl restart "$unit"
		say "systemd unit $unit"
	else
		"$warren" supervise --data-dir "$data" --name agent --stop
		setsid "$warren" supervise --data-dir "$data" --name agent -- "$warren" "${arguments[@]}" \
			</dev/null >>"$log" 2>&1 3>&- 9>&- &
		say "warren supervise (no systemd here; log: $data/log/agent.log)"
	fi
}

wait_ready() {
	local answer=
	for _ in $(seq 360); do
		answer=$("$warren" get node "$node" --no-headers --kubeconfig "$kubeconfig" 2>&1 || true)
		if [[ $answer =~ ^"$node"[[:space:]]+Ready ]]; then
			say "node $node is Ready"
			return
		fi
		sleep 0.5
	done
	echo "the last answer was: $answer"
	echo "containers:"
	docker ps -a --format '{{.Names}} {{.Status}}' | grep -i warren || true
	echo "the agent's log:"
	if has_systemd; then journalctl -n 15 -u "$unit" --no-pager; else tail -n 15 "$data/log/agent.log"; fi
	return 1
}

bring_up() {
	echo "Warren: a cluster on this machine (node $node, data in $data)"
	step "packages" "check that apt-get works on this machine" install_packages
	step "the warren binary" "install a Rust toolchain (https://rustup.rs) and see the compiler's message above" build_binary
	step "dockerd" "start dockerd by hand, see what it says, mend that" start_docker
	step "images" "see the message above; images/build.sh builds each image alone" build_images
	step "keys, certificates, accounts" "see the message above; it names the file" make_identities
	step "manifests of the control plane" "see the message above" write_manifests
	step "the agent" "see $data/log/agent.log" start_agent
	step "waiting until the node is Ready" "see the agent's log above; a port that is taken is named there" wait_ready
	local kubectl="kubectl" again
	# With what tells this cluster from another on this machine.
	again="$here/installer.sh --data-dir $data --manifests-dir $manifests --prefix $prefix"
	[ "$data $manifests $prefix" != "/var/lib/warren /etc/warren/manifests /usr/local/bin" ] || again=$here/installer.sh
	command -v kubectl >/dev/null || kubectl="warren"
	cat <<-EOF

		The cluster is up. Try next:

		  export KUBECONFIG=$kubeconfig
		  $kubectl get pods -A
		  $kubectl apply -f $here/manifests/examples/hello.yaml

		kubeconfig        $kubeconfig
		management page   http://127.0.0.1:$management_port  user admin, password in $data/broker/admin.password
		manifests folder  $manifests  (a pod's file in there runs)
		take it down      $again --down
	EOF
}

# Removes containers that carry this cluster's label, newest first, politely.
remove_containers() {
	local cluster ids
	[ -s "$data/cluster-id" ] && docker_answers || return 0
	cluster=$(cat "$data/cluster-id")
	mapfile -t ids < <(docker ps -aq --filter "label=io.warren.cluster=$cluster")
	[ ${#ids[@]} -gt 0 ] || return 0
	docker stop -t 20 "${ids[@]}" >/dev/null 2>&1 || true
	docker rm -f "${ids[@]}" >/dev/null
	echo "removed ${#ids[@]} containers"
}

remove_network() {
	local rule
	if [ -s "$data/cluster-id" ] && docker_answers; then
		docker network rm "warren-$(cat "$data/cluster-id")" >/dev/null 2>&1 && echo "removed the pods' network"
	fi
	[ -s "$data/nft-table" ] || return 0
	nft delete table ip "$(cat "$data/nft-table")" 2>/dev/null && echo "removed the Services' rules"
	# What lets Services pass Docker's filter serves all clusters on this machine.
	nft list tables ip 2>/dev/null | grep -q '^table ip warren-' && return
	iptables -w 5 -S DOCKER-USER 2>/dev/null | grep -- '"warren services"' | while read -r rule; do
		eval "iptables -w 5 ${rule/#-A/-D}"
	done || true
}

down() {
	local file put_up=$data/run/put-up
	if has_systemd && [ -e "/etc/systemd/system/$unit.service" ]; then
		systemctl disable --now "$unit" 2>/dev/null
		rm -f "/etc/systemd/system/$unit.service"
		systemctl daemon-reload
		echo "stopped and removed the unit $unit"
	elif [ -x "$warren" ] && [ -e "$data/run/agent.pid" ]; then
		"$warren" supervise --data-dir "$data" --name agent --stop
		echo "stopped the agent"
	fi
	for file in broker apiserver controllers; do
		# Only what was made from this data folder.
		if grep -qs "$data/" "$manifests/$file.yaml"; then
			rm -f "$manifests/$file.yaml"
			echo "removed $manifests/$file.yaml"
		fi
	done
	remove_containers
	remove_network
	if grep -qs '^dockerd$' "$put_up"; then
		if [ -n "$(docker ps -q 2>/dev/null)" ]; then
			echo "dockerd stays: other containers run on it"
		elif [ -x "$warren" ]; then
			"$warren" supervise --data-dir "$data" --name dockerd --stop
			echo "stopped dockerd, which this installer had started"
			sed -i '/^dockerd$/d' "$put_up"
		fi
	fi
}

purge() {
	local mount image
	if docker_answers; then
		# Without force: what a container of another cluster uses stays.
		sed -n 's/^image //p' "$data/run/put-up" 2>/dev/null | sort -u | while read -r image; do
			docker image inspect "$image" >/dev/null 2>&1 || continue
			if [ -n "$(docker ps -aq --filter "ancestor=$image")" ] || ! docker rmi "$image" >/dev/null 2>&1; then
				echo "image $image stays: another container uses it"
			else
				echo "removed image $image"
			fi
		done
		[ -z "$(warren_images)" ] || echo "other images warren/* stay: this cluster did not make them"
	fi
	# Volumes of pods may still be mounted; rm must not walk into them.
	findmnt -rn -o TARGET | { grep -F "$data/" || true; } | sort -r | while read -r mount; do umount "$mount"; done
	if grep -qs '^docker-config$' "$data/run/put-up"; then rm -f /etc/docker/daemon.json; fi
	rm -rf --one-file-system "${data:?}"
	rmdir "$manifests" "$(dirname "$manifests")" 2>/dev/null || true
	rm -f "$warren"
	echo "removed $data and $warren"
}

if [ "$(id -u)" != 0 ]; then
	echo "installer: must run as root: sudo $0" >&2
	exit 1
fi
case $action in
down) down ;;
purge)
	down
	purge
	;;
install)
	command -v apt-get >/dev/null || { echo "installer: needs Debian or a relative of it (apt-get)" >&2; exit 1; }
	mkdir -p "$data"/{log,run,broker}
	chmod 700 "$data" "$data"/{log,run,broker}
	# Two runs at once would tread on each other.
	exec 9>"$data/run/installer.lock"
	flock -n 9 || { echo "installer: another run is at work in $data" >&2; exit 1; }
	bring_up
	;;
esac
