//! An image with a shell, users of its own, and something in every field that tells how to run it.

use std::fs;
use std::path::{Path, PathBuf};

use plyfs::layer::Metadata;
use plyfs::oci::Digest;
use plyfs::pack::{TarEntry, TarKind, TarWriter};
use serde_json::{Value, json};

const PASSWD: &[u8] = b"root:x:0:0::/root:/bin/sh\nplyfs-app:x:1234:77::/home/plyfs-app:/bin/sh\n";
const GROUP: &[u8] = b"root:x:0:\nplyfs-app:x:77:\nplyfs-more:x:78:plyfs-app\n";

/// An OCI layout with that image, below `directory`.
pub fn layout(directory: &Path) -> PathBuf {
    let path = directory.join("layout");
    let blobs = path.join("blobs/sha256");
    fs::create_dir_all(&blobs).unwrap();
    let put = |media_type: &str, bytes: &[u8]| -> Value {
        let digest = Digest::of(bytes).to_string();
        let name = digest.strip_prefix("sha256:").unwrap();
        fs::write(blobs.join(name), bytes).unwrap();
        json!({"mediaType": media_type, "digest": digest, "size": bytes.len()})
    };
    let layer = layer();
    let diff_id = Digest::of(&layer).to_string();
    let layer = put("application/vnd.oci.image.layer.v1.tar", &layer);
    let host = plyfs::oci::Platform::host();
    let config = json!({
        "os": host.os, "architecture": host.architecture, "variant": host.variant,
        "config": {
            "User": "plyfs-app", "WorkingDir": "/srv/work", "Env": ["COLOUR=red"],
            "Entrypoint": ["/bin/echo"], "Cmd": ["from", "the", "image"],
            "Labels": {"colour": "red"}, "StopSignal": "SIGINT"
        },
        "rootfs": {"type": "layers", "diff_ids": [diff_id]}
    });
    let config = put(
        "application/vnd.oci.image.config.v1+json",
        config.to_string().as_bytes(),
    );
    let manifest = json!({"schemaVersion": 2, "config": config, "layers": [layer],
        "mediaType": "application/vnd.oci.image.manifest.v1+json"});
    let manifest = put(
        "application/vnd.oci.image.manifest.v1+json",
        manifest.to_string().as_bytes(),
    );
    let index = json!({"schemaVersion": 2, "manifests": [manifest]});
    fs::write(path.join("index.json"), index.to_string()).unwrap();
    fs::write(path.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
    path
}

fn layer() -> Vec<u8> {
    let busybox = ["/bin/busybox", "/usr/bin/busybox"];
    let busybox = busybox.iter().find_map(|path| fs::read(path).ok()).unwrap();
    let mut writer = TarWriter::new(Vec::new());
    let mut add = |path: &str, kind: TarKind<'_>, content: &[u8]| {
        let entry = TarEntry {
            path: path.as_bytes(),
            metadata: Metadata {
                permissions: 0o755,
                ..Metadata::default()
            },
            kind,
            xattrs: &[],
        };
        writer.append(&entry, &mut &content[..]).unwrap();
    };
    for directory in ["bin", "dev", "etc", "proc", "srv", "srv/work", "sys"] {
        add(directory, TarKind::Directory, b"");
    }
    for (path, content) in [
        ("bin/busybox", &busybox[..]),
        ("etc/passwd", PASSWD),
        ("etc/group", GROUP),
    ] {
        add(path, TarKind::Regular(content.len() as u64), content);
    }
    for applet in ["sh", "echo", "id", "ln", "stat", "touch", "sleep"] {
        add(&format!("bin/{applet}"), TarKind::Symlink(b"busybox"), b"");
    }
    writer.finish().unwrap()
}
