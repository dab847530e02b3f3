# The servers of the disk guest, for its first process to source: how each is started, asked whether
# it answers, and stopped. Their settings are in /etc; all of them write durably.
# shellcheck shell=dash

# Starts what servers= names, all at once, and waits until each answers.
start_servers() {
    local server names
    names=$(echo "$servers" | tr ',' ' ')
    for server in $names; do
        case $server in
        redis | postgres | nginx | ssh) ;;
        *) fail unknown server "$server" ;;
        esac
        "start_$server" > "/var/log/$server.log" 2>&1 || fail start "$server"
    done
    for server in $names; do
        wait_for_server "$server"
        mark server "$server"
    done
}

# Tries for ten minutes: a guest on a software processor may be very slow.
wait_for_server() {
    local tries=0
    until "answers_$1" > /dev/null 2>&1; do
        tries=$((tries + 1))
        [ "$tries" -lt 6000 ] || fail no answer from "$1"
        usleep 100000
    done
}

stop_servers() {
    local server
    for server in ssh nginx redis postgres; do
        stop_server "$server" > /dev/null 2>&1
    done
}

# Asks the server to end by itself and waits up to a minute.
stop_server() {
    local pid tries=0
    pid=$(head -n 1 "/run/$1.pid") || return
    "signal_$1" "$pid"
    while [ -e "/proc/$pid/exe" ] && [ "$tries" -lt 600 ]; do
        tries=$((tries + 1))
        usleep 100000
    done
}

# Goes on as a command of another user, its words without blanks: for the background only.
become() {
    local user=$1
    shift
    exec su -s /bin/sh "$user" -c "exec $*"
}

start_redis() {
    become redis redis-server /etc/redis/redis.conf &
    echo "$!" > /run/redis.pid
}

answers_redis() { [ "$(redis-cli ping)" = PONG ]; }

signal_redis() { kill -TERM "$1"; }

start_postgres() {
    mkdir -p /run/postgresql && chown postgres:postgres /run/postgresql || return
    # One version is on the disk.
    become postgres /usr/lib/postgresql/*/bin/postgres -c config_file=/etc/postgresql/postgresql.conf &
    echo "$!" > /run/postgres.pid
}

answers_postgres() { pg_isready -q -U postgres; }

# "Fast" shutdown: transactions are rolled back, the data is written.
signal_postgres() { kill -INT "$1"; }

start_nginx() {
    nginx &
    echo "$!" > /run/nginx.pid
}

answers_nginx() { wget -q -O /dev/null http://127.0.0.1/data.sha256; }

signal_nginx() { kill -QUIT "$1"; }

start_ssh() {
    mkdir -p /run/sshd || return
    # Keys are made in the guest at its first start: the disk is the same for everyone.
    [ -e /etc/ssh/ssh_host_ed25519_key ] ||
        ssh-keygen -q -t ed25519 -N '' -f /etc/ssh/ssh_host_ed25519_key || return
    /usr/sbin/sshd -D -e &
    echo "$!" > /run/ssh.pid
}

answers_ssh() { nc -w 1 127.0.0.1 22 < /dev/null | grep -q '^SSH-'; }

signal_ssh() { kill -TERM "$1"; }
