# Marks and jobs that all test guests have, for the first process of each (busybox sh) to source.
# tests/guests/README.md describes them. The one who sources defines own_parameter WORD, called for
# each word of the kernel command line that is not known here, and before_power_off.
# shellcheck shell=dash

# Sets uptime_us: the guest's monotonic clock. /proc/uptime counts hundredths of a second only; the
# third line of /proc/timer_list is "now at N nsecs". The shell reads it byte by byte, so the kernel
# produces this head alone and not the timers after it. No process is started for a reading.
read_uptime() {
    local word ns
    while read -r word _ ns _; do
        [ "$word" = now ] && break
    done < /proc/timer_list
    uptime_us=$((ns / 1000))
}

mark() {
    read_uptime
    echo "MARK $* uptime_us=$uptime_us"
}

# Prints why the guest cannot go on and stays up, so that the console can be read.
fail() {
    mark fail "$@"
    sleep_forever
}

sleep_forever() {
    while :; do
        # As a program, which is found without /proc too.
        busybox sleep 86400
    done
}

# Nothing but our own lines may appear between a request and its reply.
silence_kernel() {
    echo 1 > /proc/sys/kernel/printk || fail printk
}

read_command_line() {
    local word
    jobs=shell
    tty=ttyS0
    sha256_mib=64
    loop_turns=20000
    memory_mib=
    memory_passes=4
    read -r command_line < /proc/cmdline
    set -f
    for word in $command_line; do
        case $word in
        job=*) jobs=${word#*=} ;;
        tty=*) tty=${word#*=} ;;
        sha256_mib=* | loop_turns=* | memory_mib=* | memory_passes=*) read_number "$word" ;;
        *) own_parameter "$word" ;;
        esac
    done
    set +f
    tty=/dev/${tty#/dev/}
}

# Assigns the number in NAME=NUMBER to the variable of that name.
read_number() {
    case ${1#*=} in
    '' | *[!0-9]* | ??????????*) fail command line: "$1" is not a number ;;
    esac
    eval "${1%%=*}=\${1#*=}"
}

raw_terminal() {
    stty -F "$tty" raw -echo clocal || fail stty "$tty"
}

# Waits until the bytes written so far have left the UART: setting the terminal drains it first.
drain_terminal() {
    stty -F "$tty" cs8 || fail stty "$tty"
}

sha256_once() {
    dd if=/dev/zero bs=1M count="$sha256_mib" 2> /dev/null | sha256sum
}

loop_once() {
    local turn=0
    while [ "$turn" -lt "$loop_turns" ]; do
        turn=$((turn + 1))
    done
    echo "$turn"
}

start_background_load() {
    while :; do
        sha256_once
        loop_once
    done > /dev/null &
    # Dirty pages are asked for by name: not every guest has the memory.
    [ -z "$memory_mib" ] || guest memory "$memory_mib" 0 &
}

job_sha256() {
    local digest
    mark begin sha256
    digest=$(sha256_once) || fail sha256
    mark end sha256 "${digest%% *}"
}

job_loop() {
    mark begin loop
    # In this shell, not in a substitution: the job is the loop alone.
    loop_once > /dev/null
    mark end loop "$loop_turns"
}

job_memory() {
    local digest
    mark begin memory
    digest=$(guest memory "${memory_mib:-64}" "$memory_passes" 2>&1) || fail memory "$digest"
    mark end memory "$digest"
}

job_service() {
    raw_terminal
    mark begin service
    guest service < "$tty" > "$tty" || fail service
    mark end service
}

job_load() {
    start_background_load
    job_service
}

job_shell() {
    mark begin shell
    setsid sh -c "exec sh -i < '$tty' > '$tty' 2>&1"
    mark end shell
}

job_idle() {
    mark begin idle
    sleep_forever
}

# Both calls return only if they failed.
job_poweroff() {
    mark begin poweroff
    before_power_off
    drain_terminal
    poweroff -f
    fail poweroff
}

job_reboot() {
    mark begin reboot
    before_power_off
    drain_terminal
    reboot -f
    fail reboot
}

run_jobs() {
    local job
    IFS=,
    set -f
    # Split at the commas, then put the usual separators back for the jobs themselves.
    set -- $jobs
    unset IFS
    set +f
    for job; do
        case $job in
        '' | *[!a-z0-9]*) fail unknown job "$job" ;;
        esac
        type "job_$job" > /dev/null 2>&1 || fail unknown job "$job"
        "job_$job"
    done
    # Whoever leaves the shell is done with the machine; after other jobs it stays up.
    [ "$job" != shell ] || job_poweroff
    job_idle
}
