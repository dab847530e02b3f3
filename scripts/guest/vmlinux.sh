# Sourced by the scripts: takes the ELF kernel out of a bzImage, so that QEMU enters it at once, as
# our own loader does, and does not emulate its unpacking.
# shellcheck shell=bash

# Prints the little-endian number of SIZE bytes at OFFSET of a file.
number_at() {
    local text
    text=$(od -An -v -j "$2" -N "$3" -t "u$3" --endian=little "$1")
    echo $((text))
}

# extract_vmlinux VMLINUZ OUTPUT. The setup header tells where the payload is; four bytes with its
# unpacked size follow the packed data (gzip has them as a part of its own format).
extract_vmlinux() {
    local vmlinuz=$1 output=$2 sectors offset length unpack=()
    sectors=$(number_at "$vmlinuz" $((0x1f1)) 1)
    offset=$(((sectors + 1) * 512 + $(number_at "$vmlinuz" $((0x248)) 4)))
    length=$(($(number_at "$vmlinuz" $((0x24c)) 4) - 4))
    case $(od -An -v -j "$offset" -N 4 -t x1 "$vmlinuz" | tr -d ' \n') in
    02214c18) require_commands lz4 lz4 && unpack=(lz4 -dc) ;;
    28b52ffd) require_commands zstd zstd && unpack=(zstd -dcq) ;;
    fd377a58) require_commands xz xz-utils && unpack=(xz -dc) ;;
    1f8b08*) unpack=(gzip -dc) && length=$((length + 4)) ;;
    *) fail "$vmlinuz: the payload is packed in a way this script does not know" ;;
    esac
    dd if="$vmlinuz" iflag=skip_bytes,count_bytes bs=1M skip="$offset" count="$length" \
        status=none | "${unpack[@]}" > "$output" || fail "$vmlinuz: cannot be unpacked"
}
