"""Archives on HPSS, NERSC's tape system: stored once, verified before they count, brought back whole.

What one archive is on tape, all names printable ASCII and unique for ever:

    X.tar                  the members, by htar
    X.tar.idx              htar's index: lists the members without the tape
    X.tar.file00001 …      members that htar does not take (too large, name too long), one file each, by hsi cput
    X.tar.manifest.json    name, size, SHA-256, place of each member. Written last: an archive counts once it is there

Nothing on tape is ever overwritten or removed. Files by hsi are written under a name of their own and get theirs by a
rename once their checksum was read back; the manifest is one of them, so it is there whole or not at all.

The modules: request (what is asked), members (which way each file goes), sources (SHA-256 of the files on disk),
commands (running hsi and htar, and what their failures mean), tape (hsi), tar (htar), manifest, store, verify, restore.
"""
