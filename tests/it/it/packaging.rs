//! The Debian package holds what an operator expects.

use std::path::Path;

use amtsbote_it::{binary, run};

#[test]
fn the_debian_package_is_complete() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().to_str().unwrap();
    let script = root.join("docker/deb/build.sh");
    // Compressing would take longest, and says nothing.
    let program = binary("amtsbote");
    let words = ["DPKG_DEB_COMPRESSOR_TYPE=none", script.to_str().unwrap(), program.to_str().unwrap(), out];
    let built = run(&root, "env", &words);
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    let package = String::from_utf8(built.stdout).unwrap().trim().to_owned();
    let said = run(folder.path(), "dpkg-deb", &["--field", &package]);
    let fields = String::from_utf8(said.stdout).unwrap();
    for field in ["Package: amtsbote", concat!("Version: ", env!("CARGO_PKG_VERSION")), "Depends: libc6"] {
        assert!(fields.contains(field), "{field} in {fields}");
    }
    assert!(run(folder.path(), "dpkg-deb", &["-x", &package, "x"]).status.success());
    for file in [
        "lib/systemd/system/amtsbote.service",
        "usr/share/doc/amtsbote/copyright",
        "usr/share/man/man1/amtsbote.1.gz",
        "usr/share/man/man1/amtsbote-serve.1.gz",
        "usr/share/bash-completion/completions/amtsbote",
        "usr/share/zsh/vendor-completions/_amtsbote",
    ] {
        assert!(folder.path().join("x").join(file).exists(), "{file}");
    }
    let version = run(folder.path(), "x/usr/bin/amtsbote", &["--version"]);
    assert_eq!(
        String::from_utf8(version.stdout).unwrap().trim(),
        concat!("amtsbote ", env!("CARGO_PKG_VERSION"))
    );
    // What the unit calls is where the package puts it.
    let unit = std::fs::read_to_string(folder.path().join("x/lib/systemd/system/amtsbote.service")).unwrap();
    assert!(unit.contains("ExecStart=/usr/bin/amtsbote serve --config /etc/amtsbote/amtsbote.toml"));
    let reference = folder.path().join("x/usr/share/doc/amtsbote/amtsbote.reference.toml");
    assert_eq!(
        std::fs::read_to_string(reference).unwrap(),
        std::fs::read_to_string(root.join("gateway/daemon/amtsbote.reference.toml")).unwrap()
    );
    let scripts = run(folder.path(), "dpkg-deb", &["-e", &package, "control"]);
    assert!(scripts.status.success());
    for script in ["postinst", "prerm"] {
        assert!(run(folder.path(), "sh", &["-n", &format!("control/{script}")]).status.success(), "{script}");
    }
}
