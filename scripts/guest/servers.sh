# Sourced by guest-image: the root disk with servers. Its packages are unpacked, not installed: no
# script of theirs runs, and what those would set up is set up here.
# shellcheck shell=bash disable=SC2154 # the variables are those of guest-image

readonly servers_packages=(base-files base-passwd bash coreutils curl dash e2fsprogs iproute2
    libc-bin netbase nginx-light openssh-client openssh-server postgresql procps redis-server
    sqlite3 tzdata usr-is-merged)
# Depended on for installing, for scripts in Perl that wrap PostgreSQL's programs, and for compiling
# queries (130 MB): the guest uses none of these.
servers_left_out='adduser|debconf|debianutils|dpkg|gcc-.*-base|init-system-helpers|libc-l10n'
servers_left_out+='|libcap2-bin|libdebconfclient0|libgdbm.*|libjson-perl|libllvm.*|libperl.*'
servers_left_out+='|libsemanage.*|libsepol.*|libz3-.*|locales|logsave|lsb-base|passwd|perl.*'
servers_left_out+='|postgresql|postgresql-c.*common|postgresql-common-.*|runit-helper'
servers_left_out+='|sensible-utils|ssl-cert|sysvinit-utils|tar|ucf'
readonly servers_left_out
readonly servers_uuid=5e7e75e7-0000-4000-8000-000000000001
# Users and groups that the packages' scripts would make, with one number for both.
declare -rA servers_users=([redis]=101 [postgres]=102 [sshd]=103)
# 64 MiB in lines of 16 bytes, each different.
readonly servers_data_lines=4194304
readonly cluster=var/lib/postgresql/data

require_tools_of_servers() { require_tools_of_root_disks; }

tools_of_servers() { tools_of_root_disks; }

input_of_servers() {
    source_checksums scripts/guest-image scripts/guest/{packages,disk,servers}.sh \
        tests/guests/jobs.sh tests/guests/disk
    # The guest program and busybox come from there.
    checksum "$out/serial.cpio"
}

unpack_set() {
    local tree=$1 name version sum file folder
    # Debian's folders are merged: /bin is a link to /usr/bin, and so on.
    for folder in bin sbin lib lib64; do
        mkdir -p "$tree/usr/$folder"
        ln -s "usr/$folder" "$tree/$folder"
    done
    while read -r name version sum file; do
        dpkg-deb --fsys-tarfile "$cache/archives/$file" |
            tar -x -p -C "$tree" --no-same-owner --keep-directory-symlink ||
            fail "cannot unpack $name"
    done < "$work/set"
    rm -rf "$tree"/usr/share/{man,info,locale,i18n,lintian,bug,bash-completion,pixmaps} \
        "$tree"/usr/lib/{udev,systemd} "$tree"/usr/lib/postgresql/*/lib/bitcode
    find "$tree/usr/share/doc" ! -type d ! -name copyright -delete
    find "$tree/usr/share/doc" -type d -empty -delete
}

make_users() {
    local tree=$1 user
    # base-passwd's own; root has no password.
    sed 's/^root:[^:]*:/root:x:/' "$tree/usr/share/base-passwd/passwd.master" > "$tree/etc/passwd"
    echo 'root::19000:0:99999:7:::' > "$tree/etc/shadow"
    chmod 600 "$tree/etc/shadow"
    cp "$tree/usr/share/base-passwd/group.master" "$tree/etc/group"
    for user in redis postgres sshd; do
        printf '%s:*:%d:%d::/nonexistent:/usr/sbin/nologin\n' "$user" "${servers_users[$user]}" \
            "${servers_users[$user]}" >> "$tree/etc/passwd"
        printf '%s:*:%d:\n' "$user" "${servers_users[$user]}" >> "$tree/etc/group"
    done
    mkdir -p "$tree"/var/lib/{redis,nginx} "$tree/var/lib/postgresql" "$tree/run/sshd"
}

add_guest_files() {
    local tree=$1 busybox=$2 file
    cp -R "$sources/disk/etc/." "$tree/etc/"
    # Some packages bring folders there.
    rm -rf "$tree/var/run" "$tree/var/lock"
    ln -s /run "$tree/var/run"
    ln -s /run/lock "$tree/var/lock"
    ln -s /proc/mounts "$tree/etc/mtab"
    install -m 755 "$busybox" "$tree/usr/bin/busybox"
    install -D -m 755 "$work/guest" "$tree/usr/local/bin/guest"
    install -m 755 "$sources/disk/init" "$tree/usr/sbin/init"
    install -D -m 644 "$sources/jobs.sh" "$tree/usr/lib/guest/jobs.sh"
    install -m 644 "$sources/disk/servers.sh" "$tree/usr/lib/guest/servers.sh"
    install -m 644 "$sources/disk/jobs.sh" "$tree/usr/lib/guest/disk-jobs.sh"
    [[ -e $tree/bin/sh ]] || ln -s dash "$tree/usr/bin/sh"
    # busybox stands in for the commands that no package brings.
    for file in $("$busybox" --list); do
        [[ -e $tree/usr/bin/$file || -e $tree/usr/sbin/$file ]] ||
            ln -s busybox "$tree/usr/bin/$file"
    done
    # What Debian's wrappers would find.
    for file in "$tree"/usr/lib/postgresql/*/bin/*; do
        ln -s "${file#"$tree"}" "$tree/usr/local/bin/${file##*/}"
    done
}

add_data() {
    local tree=$1 first=100000000000000
    mkdir -p "$tree/srv"
    seq "$first" $((first + servers_data_lines - 1)) > "$tree/srv/data"
    echo "$(checksum "$tree/srv/data")  data" > "$tree/srv/data.sha256"
}

# PostgreSQL refuses to run as root, and its files need its own programs to be made. Its first
# database is made here, in a chroot, as initdb takes minutes in a guest on a software processor.
make_cluster() {
    local tree=$1 user=${servers_users[postgres]} programs as_user
    programs=("$tree"/usr/lib/postgresql/*/bin)
    [[ ${#programs[@]} -eq 1 && -x ${programs[0]}/initdb ]] || fail "there is no initdb"
    mkdir -p "$tree/dev/shm" "$tree/$cluster"
    chmod 1777 "$tree/tmp" "$tree/dev/shm"
    chmod 700 "$tree/$cluster"
    # initdb throws output of its children away there.
    : > "$tree/dev/null"
    chmod 666 "$tree/dev/null"
    if [[ $EUID -eq 0 ]]; then
        chown "$user:$user" "$tree/$cluster"
        as_user=(chroot --userspec="$user:$user" "$tree")
    else
        as_user=(unshare --user --map-user="$user" --map-group="$user" --root="$tree")
    fi
    quietly env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin TZ=UTC LC_ALL=C.UTF-8 "${as_user[@]}" \
        "${programs[0]#"$tree"}/initdb" --pgdata="/$cluster" --username=postgres --auth=trust \
        --encoding=UTF8 --locale=C.UTF-8 --wal-segsize=4 ||
        fail "initdb fails; without root it needs user namespaces (unshare --user)"
    rm -rf "${tree:?}"/dev/* "${tree:?}"/tmp/*
}

# Prints the list for make_root_disk. All belongs to root, but for what the servers write; so no
# program keeps the right to act as another group.
list_tree() {
    local redis=${servers_users[redis]} postgres=${servers_users[postgres]}
    find "$1" -mindepth 1 -printf '%y\t%m\t%P\t%l\n' | sort -t $'\t' -k 3,3 |
        awk -F '\t' -v OFS='\t' -v redis="$redis" -v postgres="$postgres" '
            {
                owner = 0
                if ($3 ~ /^var\/lib\/redis(\/|$)/) owner = redis
                if ($3 ~ /^var\/lib\/postgresql(\/|$)/) owner = postgres
                mode = $2
                if ($1 == "f" && length(mode) == 4) mode = substr(mode, 2)
                print $1, mode, owner, owner, $3, $4
            }'
}

make_servers() {
    local tree=$work/tree busybox disk_mib=1024 disk_inodes=16384
    get_package_set servers "$servers_left_out" "${servers_packages[@]}"
    step "unpacking $(wc -l < "$work/set") packages"
    unpack_set "$tree"
    busybox=$(unpack_busybox)
    check_syntax "$busybox" jobs.sh disk/init disk/servers.sh disk/jobs.sh
    take_guest_program "$busybox"
    make_users "$tree"
    add_guest_files "$tree" "$busybox"
    add_data "$tree"
    step "making PostgreSQL's first database"
    make_cluster "$tree"
    step "making servers.raw"
    list_tree "$tree" > "$work/list"
    make_root_disk "$tree" "$work/list" servers "$servers_uuid"
}
