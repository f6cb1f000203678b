//! What is shipped to run the gateway: the Debian package, the image, the laboratory of containers.

use std::path::{Path, PathBuf};
use std::process::Command;

use amtsbote_it::{Lab, Options, binary, run};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap()
}

/// Runs a program that must succeed; what it printed.
fn succeed(folder: &Path, program: &str, arguments: &[&str]) -> String {
    let output = run(folder, program, arguments);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "{program} {arguments:?}: {}{said}",
        String::from_utf8_lossy(&output.stdout)
    );
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn the_debian_package_is_complete() {
    let root = root();
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

#[test]
fn dockerfile_and_compose_file_are_in_order() {
    let root = root();
    let python = |name: &str| root.join("target/python/bin").join(name).display().to_string();
    succeed(&root, &python("hadolint"), &["docker/Dockerfile"]);
    let schema = ["--builtin-schema", "vendor.compose-spec", "docker/compose.yaml"];
    succeed(&root, &python("check-jsonschema"), &schema);
    let folder = tempfile::tempdir().unwrap();
    let lab = folder.path().join("lab").display().to_string();
    let program = binary("amtsbote").display().to_string();
    let words = [&format!("LAB={lab}"), "PREPARE_ONLY=1", "docker/up.sh", program.as_str()];
    succeed(&root, "env", &words);
    let checked = succeed(&root, &program, &["check-config", "--config", &format!("{lab}/amtsbote.toml")]);
    assert!(checked.contains("complete"), "{checked}");
    succeed(&root, "env", &words);
}

/// Images are kept apart from those of the machine.
struct Images(tempfile::TempDir);

impl Images {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let place = folder.path().display();
        let text = format!(
            "[storage]\ndriver = \"vfs\"\ngraphroot = \"{place}/storage\"\nrunroot = \"{place}/run\"\n"
        );
        std::fs::write(folder.path().join("storage.conf"), text).unwrap();
        Self(folder)
    }

    fn buildah(&self, arguments: &[&str]) -> String {
        let output = Command::new("buildah")
            .args(arguments)
            .current_dir(self.0.path())
            .env("BUILDAH_ISOLATION", "chroot")
            .env("CONTAINERS_STORAGE_CONF", self.0.path().join("storage.conf"))
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(
            output.status.success(),
            "buildah {arguments:?}: {}{said}",
            String::from_utf8_lossy(&output.stdout)
        );
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }
}

#[test]
fn the_image_builds_without_a_container_engine_and_runs() {
    let images = Images::new();
    let context = images.0.path().join("context");
    std::fs::create_dir_all(context.join("target/release")).unwrap();
    for name in ["amtsbote", "dvdv-mock"] {
        let to = context.join("target/release").join(name);
        std::fs::copy(binary(name), &to).unwrap();
        // Debugging information would be most of the image.
        succeed(&context, "strip", &["--strip-debug", to.to_str().unwrap()]);
    }
    let base = root().join("target/images/base.tar");
    assert!(base.exists(), "{} is missing; tests/run makes it", base.display());
    let container = images.buildah(&["from", "scratch"]);
    images.buildah(&["add", "--quiet", &container, base.to_str().unwrap(), "/"]);
    images.buildah(&["commit", "--quiet", "--rm", &container, "localhost/base"]);
    let dockerfile = root().join("docker/Dockerfile");
    let words = ["--build-arg", "BASE=localhost/base", "--build-arg", "BINARY=prebuilt"];
    let build = ["build", "--format", "docker", "--layers=false", "--tag", "localhost/amtsbote", "--file"];
    images.buildah(&[build.as_slice(), &[dockerfile.to_str().unwrap()], &words, &["context"]].concat());

    let inspected = images.buildah(&["inspect", "--type", "image", "localhost/amtsbote"]);
    let inspected: serde_json::Value = serde_json::from_str(&inspected).unwrap();
    let config = &inspected["Docker"]["config"];
    assert_eq!(config["User"], "10001:10001");
    assert_eq!(config["Healthcheck"]["Test"], serde_json::json!(["CMD", "/usr/bin/amtsbote", "health"]));
    assert_eq!(config["Entrypoint"], serde_json::json!(["/usr/bin/amtsbote"]));
    assert!(config["Volumes"]["/var/lib/amtsbote"].is_object());
    let container = images.buildah(&["from", "localhost/amtsbote"]);
    let version = images.buildah(&["run", &container, "--", "/usr/bin/amtsbote", "--version"]);
    assert_eq!(version, concat!("amtsbote ", env!("CARGO_PKG_VERSION")));
    let user = images.buildah(&["run", &container, "--", "id", "--user"]);
    assert_eq!(user, "10001");
    let written = images.buildah(&[
        "run",
        &container,
        "--",
        "sh",
        "-c",
        "touch /var/lib/amtsbote/x && ! touch /usr/bin/x 2>&1",
    ]);
    assert!(written.contains("Permission denied"), "{written}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_binary_checks_its_own_health() {
    let lab = Lab::start(Options::default()).await;
    let program = binary("amtsbote").display().to_string();
    let url = format!("http://{}", lab.gateway().telemetry);
    assert_eq!(succeed(&lab.path(""), &program, &["health", "--url", &url]), "ready\n");
    let mut lab = lab;
    lab.kill_gateway().await;
    let down = run(&lab.path(""), &program, &["health", "--url", &url]);
    assert_eq!(down.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&down.stderr).contains("does not answer"), "{down:?}");
}
