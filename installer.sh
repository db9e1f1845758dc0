#!/usr/bin/env bash
# Brings up a Warren cluster on this machine: packages, dockerd, the binary, images, identities, the control plane as
# static pods, the agent under a supervisor. Run it again to upgrade. See --help.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

data=/var/lib/warren
# What each option is where nobody has said it, neither now nor at an earlier run.
declare -A usual=(
	[manifests]=/etc/warren/manifests [prefix]=/usr/local/bin
	[node]=$(hostname | tr '[:upper:]' '[:lower:]' | tr -c 'a-z0-9.\n-' '-' | sed 's/^[-.]*//; s/[-.]*$//')
	[api_port]=6443 [node_port]=10250 [amqp_port]=5672 [management_port]=15672
)
usual[node]=${usual[node]:-node-1}
manifests='' prefix='' node='' api_port='' node_port='' amqp_port='' management_port=''
binary=
action=install
unit="warren-agent"

usage() {
	cat <<-EOF
		installer.sh: a Warren cluster on this machine. A second run upgrades it and breaks nothing.

		  ./installer.sh [options]     install or upgrade
		  ./installer.sh --down        take down what was put up; data, binary, images and packages stay
		  ./installer.sh --purge       the same, and remove data, binary and the images it made

		options; what was given once holds for later runs with the same data folder
		  --data-dir DIR          state, keys, passwords           ($data)
		  --manifests-dir DIR     the folder of static pods        (${usual[manifests]})
		  --node-name NAME        this node's name                 (${usual[node]})
		  --binary FILE           a warren binary to use, in place of building one
		  --api-port PORT         (${usual[api_port]})    --node-port PORT        (${usual[node_port]})
		  --amqp-port PORT        (${usual[amqp_port]})    --management-port PORT  (${usual[management_port]})
		  --prefix DIR            where the binary goes            (${usual[prefix]})
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

for name in "${!usual[@]}"; do
	if [ -z "${!name}" ]; then
		kept=$(sed -n "s/^$name=//p" "$data/options" 2>/dev/null) || true
		printf -v "$name" %s "${kept:-${usual[$name]}}"
	fi
done

wrong() { echo "installer: $*" >&2; exit 2; }
for path in "$data" "$manifests" "$prefix"; do
	# They end up in YAML, in sed and in a unit file.
	[[ $path =~ ^/[A-Za-z0-9._/@+-]+$ ]] || wrong "$path: a path may hold letters, digits and . _ - / @ + only"
done
for port in "$api_port" "$node_port" "$amqp_port" "$management_port"; do
	[[ $port =~ ^[1-9][0-9]{0,4}$ && $port -le 65535 ]] || wrong "$port: a port is a number from 1 to 65535"
done
# RabbitMQ's own two, as it would choose the first itself.
dist_port=$((amqp_port > 45000 ? amqp_port - 20000 : amqp_port + 20000))
epmd_port=$((dist_port + 1))

log=$data/log/install.log
put_up_list=$data/run/put-up
warren=$prefix/warren
kubeconfig=$data/kubeconfig/admin.conf
# A second cluster on this machine, under another data folder, gets a unit of its own.
[ "$data" = /var/lib/warren ] || unit=warren-agent-$(printf %s "$data" | sha256sum | cut -c1-8)

has_systemd() { [ -d /run/systemd/system ]; }
docker_answers() { timeout 10 docker info >/dev/null 2>&1; }
# What a step wants the person to know. Steps run in a subshell with their output in the log; this goes past it.
say() { echo "      $*" >&3; }
# What was not there before and is taken away again by --down or --purge.
put_up() { grep -qxsF "$1" "$put_up_list" || echo "$1" >>"$put_up_list"; }
was_put_up() { grep -qxsF "$1" "$put_up_list"; }
forget() {
	was_put_up "$1" || return 0
	grep -vxF "$1" "$put_up_list" >"$put_up_list.new" || true
	mv "$put_up_list.new" "$put_up_list"
}

total=9 number=0
# A long step shows that it goes on, and where it is.
tick() {
	local begin=$SECONDS never from last
	from=$(($(stat -c %s "$log") + 1))
	# Nothing ever comes from there, and no process is left over that waits.
	exec {never}<> <(:)
	while read -r -t 20 -u "$never"; [ $? -gt 128 ] && kill -0 $$; do
		last=$(tail -c "+$from" "$log" | tail -n 1 | cut -c1-100)
		printf '      %d s%s\n' $((SECONDS - begin)) "${last:+: $last}"
	done
}
ticker=
# Ctrl-C does not reach what runs in the background.
trap '[ -z "$ticker" ] || kill "$ticker" 2>/dev/null' EXIT

# step <title> <remedy> <function>: runs it with its output in the log; a failure names the step, the log, the remedy.
step() {
	local title=$1 remedy=$2 function=$3 begin=$SECONDS status
	number=$((number + 1))
	printf '[%d/%d] %s\n' "$number" "$total" "$title"
	echo "=== $(date -Is) $title" >>"$log"
	tick 9>&- &
	ticker=$!
	# Not in a condition: there `set -e` would not hold inside.
	set +e
	(set -e; "$function") 3>&1 >>"$log" 2>&1 </dev/null
	status=$?
	kill "$ticker"
	wait "$ticker" 2>/dev/null
	ticker=
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

# Before there is a log: what cannot be written, or has no room, is named here and not by the first of many parts that
# trips over it.
prepare_data() {
	local reason='' remedy="name another folder with --data-dir, or make this one usable" free
	if [ ! -e "$data/cluster-id" ] && [ ! -e "$log" ] && [ -n "$(find "$data" -mindepth 1 ! -name lost+found -print -quit 2>/dev/null)" ]; then
		reason="the folder is not empty, and what is in it is not Warren's"
	elif ! reason=$({ mkdir -p "$data"/{log,run,broker} && chmod 700 "$data"{,/log,/run,/broker} && : >>"$log"; } 2>&1); then
		reason=${reason:-it cannot be written}
	else
		free=$(($(df --output=avail -k "$data" | tail -n 1) / 1024))
		[ "$free" -ge 300 ] || reason="$free MB are free there, 300 are needed"
	fi
	[ -z "$reason" ] || {
		printf '\nFAILED: the data folder %s\n    %s\n' "$data" "$reason"
		printf 'Log:    none yet\nRemedy: %s\nThen run this again; it goes on where it stopped.\n' "$remedy"
		exit 1
	} >&2
}

install_packages() {
	local wanted=() missing=() package
	# What runs pods, what serves Services, what images and the binary are made of.
	command -v dockerd >/dev/null || wanted+=(docker.io)
	command -v nft >/dev/null || wanted+=(nftables)
	command -v ip >/dev/null || wanted+=(iproute2)
	command -v iptables >/dev/null || wanted+=(iptables)
	command -v debootstrap >/dev/null || wanted+=(debootstrap)
	{ command -v busybox && ! ldd "$(command -v busybox)"; } >/dev/null 2>&1 || wanted+=(busybox-static)
	command -v cc >/dev/null || wanted+=(gcc)
	command -v make >/dev/null || wanted+=(make)
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
	# The package starts its daemon itself where it can.
	[[ " ${missing[*]} " != *" docker.io "* ]] || configure_docker
	if ! has_systemd && [ ! -e /usr/sbin/policy-rc.d ]; then
		# What an init script starts, nobody restarts.
		trap 'rm -f /usr/sbin/policy-rc.d' EXIT
		printf '#!/bin/sh\nexit 101\n' >/usr/sbin/policy-rc.d
		chmod 755 /usr/sbin/policy-rc.d
	fi
	apt-get update -q
	DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "${missing[@]}"
}

# configure_docker: containers outlive their daemon, unless somebody has said otherwise.
configure_docker() {
	[ ! -e /etc/docker/daemon.json ] || return 0
	mkdir -p /etc/docker
	echo '{ "live-restore": true }' >/etc/docker/daemon.json
	put_up docker-config
}

# Whether a process is a part of this cluster.
is_ours() {
	local container cluster
	! tr '\0' ' ' 2>/dev/null <"/proc/$1/cmdline" | grep -qF -- "--data-dir=$data " || return 0
	container=$(grep -oE '[0-9a-f]{64}' "/proc/$1/cgroup" 2>/dev/null | head -n 1) || true
	cluster=$(cat "$data/cluster-id" 2>/dev/null) || return 1
	[ -n "$container" ] &&
		[ "$(docker inspect -f '{{index .Config.Labels "io.warren.cluster"}}' "$container" 2>/dev/null)" = "$cluster" ]
}

check_ports() {
	local option port listener pid who taken=0
	for option in api node amqp management dist epmd; do
		port=${option}_port
		port=${!port}
		# One address of this machine may be somebody's, while ours is free.
		listener=$(ss -Hltnp "sport = :$port" | awk '$4 ~ /^(127\.0\.0\.1|0\.0\.0\.0|\*|\[::\]|\[::ffff:127\.0\.0\.1\]):/' | head -n 1)
		[ -n "$listener" ] || continue
		pid=$(grep -o 'pid=[0-9]*' <<<"$listener" | head -n 1 | cut -d= -f2) || true
		if [ -n "$pid" ] && is_ours "$pid"; then continue; fi
		who="a process that is not visible here"
		[ -z "$pid" ] || who="$(cat "/proc/$pid/comm") (pid $pid)"
		case $option in dist | epmd) option=amqp ;; esac
		echo "port $port is taken by $who; --$option-port names another"
		taken=1
	done
	return $taken
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
		put_up "binary $warren"
		say "$warren: $("$warren" --version)"
	fi
}

supervise() { "$warren" supervise --data-dir "$data" "$@"; }
# In a session of its own, without what this script has open.
supervise_in_background() { setsid "$warren" supervise --data-dir "$data" "$@" </dev/null >>"$log" 2>&1 3>&- 9>&- & }

start_docker() {
	local live=--live-restore dockerd_log=$data/log/dockerd.log from=1
	if docker_answers; then
		say "dockerd runs already and is left as it is"
		[ "$(docker info -f '{{.LiveRestoreEnabled}}')" = true ] ||
			say "note: its live-restore is off: containers end when dockerd does (\"live-restore\": true in /etc/docker/daemon.json)"
		return
	fi
	if has_systemd; then
		configure_docker
		systemctl enable --now docker
	else
		# What systemd or an init script would have done.
		mountpoint -q /sys/fs/cgroup || mount -t cgroup2 cgroup2 /sys/fs/cgroup
		# Given in the file as well, dockerd refuses to start.
		! grep -qs live-restore /etc/docker/daemon.json || live=
		[ ! -e "$dockerd_log" ] || from=$(($(stat -c %s "$dockerd_log") + 1))
		supervise --name dockerd --stop
		# shellcheck disable=SC2086 # no argument where it is empty
		supervise_in_background --name dockerd -- dockerd $live
		put_up dockerd
	fi
	for _ in $(seq 60); do
		if docker_answers; then
			if has_systemd; then
				say "started dockerd (systemd unit docker)"
			else
				say "started dockerd with live-restore under warren supervise (no systemd here; log: $dockerd_log)"
			fi
			return
		fi
		# Who ends again and again does not come up.
		[ "$(tail -c "+$from" "$dockerd_log" 2>/dev/null | grep -c 'supervisor: the program ended')" -lt 3 ] || break
		sleep 0.5
	done
	echo "dockerd does not answer; the end of its log:"
	if has_systemd; then
		journalctl -n 20 -u docker --no-pager
	else
		tail -c "+$from" "$dockerd_log" | tail -n 12
		supervise --name dockerd --stop
		forget dockerd
	fi
	return 1
}

warren_images() { docker images --format '{{.Repository}}:{{.Tag}}' --filter reference='warren/*' | sort; }
# Only what this cluster's installation made is its own to remove.
note_images() {
	local made
	comm -13 <(echo "$1") <(warren_images) | while read -r made; do put_up "image $made"; done
}

build_image() { "$here/images/build.sh" "$@" | sed -u 's/^/      /' >&3; }
build_images() {
	# Not local: the trap runs after the function. A step has a shell of its own.
	before=$(warren_images)
	trap 'note_images "$before"' EXIT
	build_image pause
	build_image busybox
	build_image warren "$warren"
	# The choice stays: the data of one version of RabbitMQ is not always readable by another.
	if [ ! -s "$data/broker/image" ]; then
		if timeout 10 docker manifest inspect rabbitmq:4-management >/dev/null 2>&1; then
			say "a registry answers: pulling rabbitmq:4-management"
			docker image inspect rabbitmq:4-management >/dev/null 2>&1 || put_up "image rabbitmq:4-management"
			docker pull -q rabbitmq:4-management
			echo rabbitmq:4-management >"$data/broker/image"
		else
			say "no registry answers: RabbitMQ comes from Debian's packages"
			build_image rabbitmq
			echo warren/rabbitmq:1 >"$data/broker/image"
		fi
	elif grep -q '^warren/' "$data/broker/image"; then
		build_image rabbitmq
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

# As images/build.sh names it.
warren_image() { echo "warren/warren:$(sha256sum "$warren" | cut -c1-12)"; }

write_manifests() {
	local image tag config file
	tag=$(warren_image)
	image=$(cat "$data/broker/image")
	config=$(cat "$data/broker/rabbitmq/rabbitmq.conf" "$data/broker/rabbitmq/definitions.json" | sha256sum | cut -c1-16)
	mkdir -p "$manifests" "$data/rabbitmq" "$data/server"
	for file in broker apiserver controllers; do
		# First under a name that the agent does not read, then in one step.
		sed -e "s|@DATA@|$data|g; s|@WARREN_IMAGE@|$tag|g; s|@BROKER_IMAGE@|$image|g" \
			-e "s|@API_PORT@|$api_port|g; s|@AMQP_PORT@|$amqp_port|g; s|@MANAGEMENT_PORT@|$management_port|g" \
			-e "s|@DIST_PORT@|$dist_port|g; s|@EPMD_PORT@|$epmd_port|g; s|@BROKER_CONFIG_HASH@|$config|g" \
			"$here/manifests/$file.yaml" >"$manifests/.$file.new"
		mv "$manifests/.$file.new" "$manifests/$file.yaml"
		say "$manifests/$file.yaml"
	done
}

agent_arguments() {
	printf '%s\n' agent "--data-dir=$data" "--node-name=$node" --runtime=docker "--manifests=$manifests" \
		"--server=https://127.0.0.1:$api_port" "--broker=amqp://127.0.0.1:$amqp_port" "--bind=127.0.0.1:$node_port"
}

write_unit() {
	cat >"$1" <<-EOF
		[Unit]
		Description=Warren agent ($data)
		After=network.target docker.service
		[Service]
		ExecStart=$warren $(agent_arguments | paste -sd ' ')
		Restart=always
		RestartSec=1
		# Containers are dockerd's children, and a restart of the agent must not touch them.
		KillMode=process
		LimitNOFILE=65536
		[Install]
		WantedBy=multi-user.target
	EOF
}

start_agent() {
	local arguments
	if has_systemd; then
		write_unit "/etc/systemd/system/$unit.service"
		systemctl daemon-reload
		systemctl enable "$unit"
		systemctl stop "$unit"
		date +%s%N >"$data/run/agent-started"
		systemctl start "$unit"
		say "systemd unit $unit"
	else
		supervise --name agent --stop
		date +%s%N >"$data/run/agent-started"
		mapfile -t arguments < <(agent_arguments)
		supervise_in_background --name agent -- "$warren" "${arguments[@]}"
		say "warren supervise (no systemd here; log: $data/log/agent.log)"
	fi
}

ask() { "$warren" get "$@" --kubeconfig "$kubeconfig" 2>&1; }
# What is still missing, in one line; nothing where all is there.
still_missing() {
	local answer pod container
	answer=$(ask node "$node" --no-headers) || { echo "the API: ${answer%%$'\n'*}"; return; }
	[[ $answer =~ ^"$node"[[:space:]]+Ready ]] || { echo "the node: $answer"; return; }
	# Stored states may be those of an earlier life: the heartbeat must be newer than this agent's start, and the
	# containers that are said to be ready must be there.
	answer=$(ask lease "$node" -n kube-node-lease -o json | grep -o '"renewTime": *"[^"]*"' | cut -d'"' -f4) || true
	[[ -n $answer && $(date -d "$answer" +%s%N) -gt $(cat "$data/run/agent-started") ]] ||
		{ echo "the node's heartbeat"; return; }
	for pod in apiserver broker controllers; do
		answer=$(ask pod "$pod-$node" -n kube-system --no-headers) || { echo "pod $pod-$node: $answer"; return; }
		[[ $answer =~ [[:space:]]1/1[[:space:]]+Running ]] || { echo "pod $(awk '{ print $1, $2, $3 }' <<<"$answer")"; return; }
		answer=$(ask pod "$pod-$node" -n kube-system -o yaml)
		container=$(grep -o 'containerID: docker://[0-9a-f]*' <<<"$answer" | cut -d/ -f3) || true
		{ [ -n "$container" ] && docker ps -q --no-trunc | grep -q "$container"; } || { echo "pod $pod-$node: new state"; return; }
		grep -qF "$(grep -m 1 'image:' "$manifests/$pod.yaml" | awk '{ print $NF }')" <<<"$answer" ||
			{ echo "pod $pod-$node: the new version"; return; }
	done
	# And that of an earlier version has ended.
	answer=$(docker ps -a --filter "label=io.warren.cluster=$(cat "$data/cluster-id")" --format '{{.Image}} {{.Names}}' |
		grep '^warren/warren:' | grep -v "^$(warren_image) " | head -n 1) || true
	[ -z "$answer" ] || echo "the end of ${answer#* }"
}

wait_ready() {
	local answer='' before='' begin=$SECONDS
	while [ $((SECONDS - begin)) -lt 180 ]; do
		answer=$(still_missing)
		if [ -z "$answer" ]; then
			say "node $node is Ready, and so are the API, the broker and the controllers"
			return
		fi
		[ "$answer" = "$before" ] || echo "$(date +%T) waiting for $answer"
		before=$answer
		sleep 0.5
	done
	echo "containers:"
	docker ps -a --filter "label=io.warren.cluster=$(cat "$data/cluster-id")" --format '{{.Names}} {{.Status}}' || true
	echo "the agent's log:"
	if has_systemd; then journalctl -n 8 -u "$unit" --no-pager; else tail -n 8 "$data/log/agent.log"; fi
	echo "after 180 s still missing: $answer"
	return 1
}

# Images of earlier versions go when nothing runs from them any more; what cannot be removed yet is tried next time.
remove_old_images() {
	local image current
	current=$(warren_image)
	sed -n 's/^image \(warren\/warren:.*\)/\1/p' "$put_up_list" 2>/dev/null | while read -r image; do
		[ "$image" != "$current" ] || continue
		if docker rmi "$image" >/dev/null 2>&1 || ! docker image inspect "$image" >/dev/null 2>&1; then
			forget "image $image"
			say "removed $image of an earlier version"
		fi
	done
}

bring_up() {
	echo "Warren: a cluster on this machine (node $node, data in $data)"
	for name in "${!usual[@]}"; do echo "$name=${!name}"; done >"$data/options"
	step "packages" "check that apt-get works on this machine" install_packages
	step "ports" "end what has them, or name others" check_ports
	step "the warren binary" "install a Rust toolchain (https://rustup.rs), or see the compiler's message above" build_binary
	step "dockerd" "mend what it says, or start dockerd by hand" start_docker
	step "images" "see the message above; images/build.sh builds each image alone" build_images
	step "keys, certificates, accounts" "see the message above; it names the file" make_identities
	step "manifests of the control plane" "see the message above" write_manifests
	step "the agent" "see $data/log/agent.log" start_agent
	step "waiting until the cluster is ready" "see what is missing above, and \`docker logs\` of that container" wait_ready
	remove_old_images 3>&1
	local kubectl=kubectl again=$here/installer.sh
	# What tells this cluster from another on this machine; the other options are kept there.
	[ "$data" = /var/lib/warren ] || again="$again --data-dir $data"
	if ! command -v kubectl >/dev/null; then
		kubectl=warren
		[ "$(command -v warren)" = "$warren" ] || kubectl=$warren
	fi
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
	has_systemd || echo "after a reboot    $again  (there is no systemd here that would)"
}

# Containers can only be taken down through a daemon. One that this installer started, and that is gone since, is
# started again for it.
need_docker() {
	docker_answers && return
	[ -s "$data/cluster-id" ] && command -v dockerd >/dev/null || return 0
	if was_put_up dockerd && [ -x "$warren" ]; then
		total=1
		step "dockerd, to take containers down" "mend what it says, or start dockerd by hand" start_docker
		return
	fi
	echo "installer: dockerd does not answer, and containers of this cluster may be on it: start it, then run this again" >&2
	exit 1
}

# Removes containers that carry this cluster's label, politely.
remove_containers() {
	local ids control ours
	[ -s "$data/cluster-id" ] && docker_answers || return 0
	ours=label=io.warren.cluster=$(cat "$data/cluster-id")
	control=$(docker ps -q --filter "$ours" --filter label=io.warren.pod.namespace=kube-system)
	mapfile -t ids < <(docker ps -q --filter "$ours" | grep -vxF "${control:-none}")
	[ ${#ids[@]} -eq 0 ] || docker stop -t 10 "${ids[@]}" >/dev/null 2>&1 || true
	# The broker closes its files.
	mapfile -t ids <<<"$control"
	[ -z "$control" ] || docker stop -t 60 "${ids[@]}" >/dev/null 2>&1 || true
	mapfile -t ids < <(docker ps -aq --filter "$ours")
	[ ${#ids[@]} -gt 0 ] || return 0
	docker rm -f -v "${ids[@]}" >/dev/null
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
	# All of the list is read: who stops at the first line makes its writer fail.
	if nft list tables ip 2>/dev/null | grep '^table ip warren-' >/dev/null; then return; fi
	iptables -w 5 -S DOCKER-USER 2>/dev/null | grep -- '"warren services"' | while read -r rule; do
		eval "iptables -w 5 ${rule/#-A/-D}"
	done || true
}

stop_cluster() {
	local file
	if has_systemd && [ -e "/etc/systemd/system/$unit.service" ]; then
		systemctl disable --now "$unit" 2>/dev/null || true
		rm -f "/etc/systemd/system/$unit.service"
		systemctl daemon-reload
		echo "stopped and removed the unit $unit"
	elif [ -x "$warren" ] && [ -e "$data/run/agent.pid" ]; then
		supervise --name agent --stop
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
}

stop_docker() {
	was_put_up dockerd || return 0
	if [ -n "$(docker ps -q 2>/dev/null)" ]; then
		echo "dockerd stays: other containers run on it"
	elif [ -x "$warren" ]; then
		supervise --name dockerd --stop
		echo "stopped dockerd, which this installer had started"
		forget dockerd
	fi
}

remove_images() {
	local image
	docker_answers || return 0
	# Without force: what a container of another cluster uses stays.
	sed -n 's/^image //p' "$put_up_list" 2>/dev/null | sort -u | while read -r image; do
		docker image inspect "$image" >/dev/null 2>&1 || continue
		if [ -n "$(docker ps -aq --filter "ancestor=$image")" ] || ! docker rmi "$image" >/dev/null 2>&1; then
			echo "image $image stays: another container uses it"
		else
			echo "removed image $image"
		fi
	done
	[ -z "$(warren_images)" ] || echo "other images warren/* stay: this cluster did not make them"
}

remove_files() {
	local mount binary
	# Volumes of pods may still be mounted; rm must not walk into them.
	findmnt -rn -o TARGET | awk -v data="$data/" 'index($0, data) == 1' | sort -r | while read -r mount; do umount "$mount"; done
	if was_put_up docker-config && [ "$(cat /etc/docker/daemon.json 2>/dev/null)" = '{ "live-restore": true }' ]; then
		rm -f /etc/docker/daemon.json
	fi
	sed -n 's/^binary //p' "$put_up_list" 2>/dev/null | while read -r binary; do
		if grep -qs "=$binary " /etc/systemd/system/warren-agent*.service || runs_elsewhere "$binary"; then
			echo "$binary stays: another cluster runs it"
		else
			rm -f "$binary"
			echo "removed $binary"
		fi
	done
	# By name: the folder may have become somebody's home for other things.
	rm -rf --one-file-system "${data:?}"/{agents,broker,kubeconfig,log,pki,rabbitmq,run,server,cluster-id,nft-table,options}
	rmdir "$manifests" "$(dirname "$manifests")" 2>/dev/null || true
	if rmdir "$data" 2>/dev/null; then
		echo "removed $data"
	else
		echo "removed Warren's data from $data; what else is in there stays"
	fi
}

# Whether a process that is not of this data folder runs the binary.
runs_elsewhere() {
	local exe
	for exe in /proc/[0-9]*/exe; do
		[ "$(readlink "$exe" 2>/dev/null)" = "$1" ] || continue
		tr '\0' ' ' 2>/dev/null <"${exe%/exe}/cmdline" | grep -qF -- "$data" || return 0
	done
	return 1
}

if [ "$(id -u)" != 0 ]; then
	echo "installer: must run as root: sudo $0" >&2
	exit 1
fi
if [ $action = install ]; then
	command -v apt-get >/dev/null || { echo "installer: needs Debian or a relative of it (apt-get)" >&2; exit 1; }
	prepare_data
elif [ ! -e "$log" ] && [ ! -e "$data/cluster-id" ]; then
	echo "nothing was put up from $data"
	exit
fi
# Two runs at once would tread on each other.
mkdir -p "$data/run"
exec 9>"$data/run/installer.lock"
flock -n 9 || { echo "installer: another run is at work in $data" >&2; exit 1; }
case $action in
install) bring_up ;;
down)
	need_docker
	stop_cluster
	stop_docker
	echo "the data stays in $data; --purge removes it"
	;;
purge)
	need_docker
	stop_cluster
	# While there is a daemon.
	remove_images
	stop_docker
	remove_files
	;;
esac
