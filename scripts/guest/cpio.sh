# Sourced by guest-image: writes archives in the "newc" format of cpio, for initramfs.
# shellcheck shell=bash

# The "newc" format of cpio: for each entry "070701", thirteen fields of eight hexadecimal digits,
# the name with its NUL, and the contents, both padded to four bytes. Written here so that owners,
# times, inode numbers and link counts do not depend on this machine's file system or user.

begin_archive() {
    archive_inode=1
    archive_size=0
}

end_archive() {
    archive_inode=0
    entry 'TRAILER!!!' 0 1 0
    pad_to "$archive_size" 512
}

pad_to() {
    local size=$1 unit=$2
    local count=$(((unit - size % unit) % unit))
    archive_size=$((archive_size + size + count))
    [[ $count -eq 0 ]] || head -c "$count" /dev/zero
}

# entry NAME MODE LINKS SIZE [RDEV_MAJOR RDEV_MINOR]; the contents follow by the caller.
entry() {
    local name=$1 mode=$2 links=$3 size=$4 major=${5:-0} minor=${6:-0}
    local fields=("$archive_inode" "$mode" 0 0 "$links" 0 "$size" 0 0 "$major" "$minor"
        $((${#name} + 1)) 0)
    printf '070701'
    printf '%08X' "${fields[@]}"
    printf '%s\0' "$name"
    pad_to $((110 + ${#name} + 1)) 4
    archive_inode=$((archive_inode + 1))
}

directory() { entry "$1" $((8#040755)) 2 0; }

character_device() { entry "$1" $((8#020600)) 1 0 "$2" "$3"; }

symbolic_link() {
    entry "$1" $((8#120777)) 1 ${#2}
    printf '%s' "$2"
    pad_to ${#2} 4
}

executable() {
    local size
    size=$(stat -L -c %s "$2")
    entry "$1" $((8#100755)) 1 "$size"
    cat "$2"
    pad_to "$size" 4
}
