# Jobs of the disk guest, beside those that all guests have, for its first process to source.
# Each ends with a digest or a count that depends on nothing but its parameters.
# shellcheck shell=dash

scratch=/var/tmp/job

# Writes a file, syncs it, and reads it back from the disk.
job_files() {
    local written read
    mark begin files
    rm -f "$scratch.file"
    written=$(disk_pattern | sha256sum)
    disk_pattern | dd of="$scratch.file" bs=1M conv=fsync 2> /dev/null || fail files write
    echo 3 > /proc/sys/vm/drop_caches
    read=$(sha256sum < "$scratch.file")
    [ "$read" = "$written" ] || fail files "$read" is not "$written"
    rm -f "$scratch.file"
    mark end files "${read%% *}"
}

# The large file, as often as it takes.
disk_pattern() {
    local left=$disk_mib
    while [ "$left" -gt 64 ]; do
        cat /srv/data
        left=$((left - 64))
    done
    dd if=/srv/data bs=1M count="$left" 2> /dev/null
}

# Rows in transactions of their own, each on the disk before the next.
job_sqlite() {
    local row=0 digest
    mark begin sqlite
    rm -f "$scratch.db"*
    {
        echo "PRAGMA synchronous = FULL;"
        echo "CREATE TABLE rows (number INTEGER PRIMARY KEY, square INTEGER);"
        while [ "$row" -lt "$sqlite_rows" ]; do
            row=$((row + 1))
            echo "INSERT INTO rows VALUES ($row, $((row * row)));"
        done
    } | sqlite3 -bail "$scratch.db" || fail sqlite write
    [ "$(sqlite3 "$scratch.db" 'PRAGMA integrity_check')" = ok ] || fail sqlite integrity
    digest=$(sqlite3 "$scratch.db" 'SELECT * FROM rows ORDER BY number' | sha256sum)
    mark end sqlite "${digest%% *}"
}

# Counts on a key of its own; each step is in the append-only file before the reply.
job_redis() {
    local turn=0 count
    mark begin redis
    redis-cli del job > /dev/null || fail redis del
    count=$(while [ "$turn" -lt "$redis_turns" ]; do
        turn=$((turn + 1))
        echo "incr job"
    done | redis-cli | tail -n 1) || fail redis incr
    [ "$count" = "$redis_turns" ] || fail redis counted "$count"
    mark end redis "$count"
}

# Rows in transactions of their own.
job_postgres() {
    local row=0 count
    mark begin postgres
    {
        echo "DROP TABLE IF EXISTS rows; CREATE TABLE rows (number int PRIMARY KEY, square int);"
        while [ "$row" -lt "$postgres_rows" ]; do
            row=$((row + 1))
            echo "INSERT INTO rows VALUES ($row, $((row * row)));"
        done
    } | psql -qX -U postgres -v ON_ERROR_STOP=1 > /dev/null 2>&1 || fail postgres write
    count=$(psql -qXAt -U postgres -c 'SELECT count(*), sum(square) FROM rows') ||
        fail postgres read
    mark end postgres "$count"
}

# The large file over the guest's own network.
job_web() {
    local expected digest
    mark begin web
    expected=$(cat /srv/data.sha256)
    digest=$(wget -q -O - http://127.0.0.1/data | sha256sum) || fail web
    [ "${digest%% *}" = "${expected%% *}" ] || fail web "$digest"
    mark end web "${digest%% *}"
}

# Writes for ever in the background; the jobs after it run beside this.
job_writes() {
    mark begin writes
    {
        scratch=/var/tmp/background
        while :; do
            job_files
            job_sqlite
        done
    } > /dev/null &
    mark end writes
}
