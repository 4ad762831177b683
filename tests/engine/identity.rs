//! Node numbers, references, and what shares them.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use super::kernel::in_private_mounts;
use super::support::{Lab, Need, find, open, require, rows, text};
use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use plyfs::union::NodeNumber;

/// Path to number.
fn numbers(layers: &[PathBuf]) -> BTreeMap<Vec<u8>, u64> {
    let rows = rows(&open(layers)).into_iter();
    rows.map(|(path, row)| (path, row.ino)).collect()
}

#[test]
fn the_number_is_that_of_the_topmost_inode() {
    let mut lab = Lab::new();
    let layers = lab.layers(&[
        &["d d", "f d/a top"],
        &["f d/a low", "f d/b low", "f e/c low"],
    ]);
    let numbers = numbers(&layers);
    for (path, layer) in [("/d", 0), ("/d/a", 0), ("/d/b", 1), ("/e", 1), ("/e/c", 1)] {
        let real = std::fs::symlink_metadata(layers[layer].join(&path[1..])).expect("metadata");
        assert_eq!(numbers[path.as_bytes()], real.ino(), "{path}");
    }
    assert_eq!(
        find(&open(&layers), "").map(|root| root.node),
        Some(NodeNumber::ROOT)
    );
}

#[test]
fn hard_links_are_one_node() {
    let mut lab = Lab::new();
    let layers = lab.layers(&[
        &["d e"],
        &["f d/a x", "h e/b d/a", "h c d/a", "f e/other x"],
    ]);
    let stack = open(&layers);
    let a = find(&stack, "d/a").expect("d/a");
    assert_eq!(a.nlink, 3);
    for link in ["e/b", "c"] {
        assert_eq!(find(&stack, link), Some(a), "{link}");
    }
    // Three references to the file, two to d, twice e: none too many.
    stack.forget(a.node, 2);
    assert!(stack.attributes(a.node).is_ok());
    stack.forget(a.node, 1);
    assert_eq!(
        stack.attributes(a.node).map_err(|e| e.errno),
        Err(Errno::ESTALE)
    );
    rows(&open(&layers));
}

#[test]
fn numbers_do_not_depend_on_what_was_looked_up_before() {
    let mut lab = Lab::new();
    let mut layers = lab.layers(&[&["f d/a x", "f d/s/b x"], &["f d/s/c x", "f e/f x"]]);
    // The same layer again, a directory of a layer, and its parent.
    layers.push(layers[1].join("d"));
    layers.push(layers[0].clone());
    layers.push(layers[0].join("d"));
    let all = numbers(&layers);
    let distinct: std::collections::BTreeSet<_> = all.values().collect();
    // `c` of the second layer is seen twice, and so is `b`: files, which are one as hard links are.
    assert!(distinct.len() + 4 > all.len());
    assert_eq!(all, numbers(&layers));
    for (path, number) in all.iter().rev() {
        let path = std::str::from_utf8(path).expect("text");
        let found = find(&open(&layers), path).expect(path);
        assert_eq!(found.node.0, *number, "{path}");
    }
}

#[test]
fn directories_that_are_seen_twice_stay_two() {
    let mut lab = Lab::new();
    let outer = lab.layer(&["f x/y/outer x", "f x/z/f x"]);
    let top = lab.layer(&["d x"]);
    // The inner layer shows as /y what the outer one shows as /x/y.
    let inner = outer.join("x");
    let other = lab.layer(&["f y/other x", "f x/y/third x"]);
    let layers = [top, outer, inner, other];
    let stack = open(&layers);
    let expected = [
        "d x",
        "d x/y",
        "f x/y/outer x",
        "f x/y/third x",
        "d x/z",
        "f x/z/f x",
        "d y",
        "f y/other x",
        "f y/outer x",
        "d z",
        "f z/f x",
    ];
    assert_eq!(text(&stack), expected);
    let node = |path: &str| find(&stack, path).expect(path).node;
    assert_ne!(node("x/y"), node("y"));
    let in_order = |paths: [&str; 2]| {
        let stack = open(&layers);
        paths.map(|path| {
            let found = find(&stack, path).expect(path).node;
            stack.forget(found, 1);
            found
        })
    };
    assert_eq!(in_order(["x/y", "y"]), [node("x/y"), node("y")]);
    assert_eq!(in_order(["y", "x/y"]), [node("y"), node("x/y")]);
    assert_eq!(node("x/y/outer"), node("y/outer"));
}

#[test]
fn dots() {
    let mut lab = Lab::new();
    let layers = lab.layers(&[&["f d/s/a x"]]);
    let stack = open(&layers);
    let d = find(&stack, "d").expect("d");
    let s = find(&stack, "d/s").expect("s");
    let node = |directory, name: &[u8]| {
        let found = stack.lookup(directory, name).expect("a lookup");
        found.map(|found| found.node)
    };
    assert_eq!(node(s.node, b"."), Some(s.node));
    assert_eq!(node(s.node, b".."), Some(d.node));
    assert_eq!(node(d.node, b".."), Some(NodeNumber::ROOT));
    assert_eq!(node(NodeNumber::ROOT, b".."), Some(NodeNumber::ROOT));
}

#[test]
fn forgotten_nodes_leave_nothing() {
    let mut lab = Lab::new();
    let layer = lab.empty();
    for directory in 0..100 {
        let path = layer.join(format!("{directory}"));
        std::fs::create_dir(&path).expect("a directory");
        for file in 0..10 {
            std::fs::write(path.join(format!("{file}")), "").expect("a file");
        }
    }
    let stack = open(&[layer]);
    for _ in 0..100 {
        for directory in 0..100 {
            let directory = find(&stack, &format!("{directory}"))
                .expect("a directory")
                .node;
            for file in 0..10 {
                let name = format!("{file}");
                let file = stack.lookup(directory, name.as_bytes()).expect("a lookup");
                stack.forget(file.expect("a file").node, 1);
            }
            stack.forget(directory, 1);
        }
    }
    assert_eq!(stack.nodes_in_use(), 1);
    // Too many are no harm, and the root stays.
    stack.forget(NodeNumber::ROOT, u64::MAX);
    assert!(stack.attributes(NodeNumber::ROOT).is_ok());
}

#[test]
fn threads_agree() {
    let mut lab = Lab::new();
    let layers = lab.layers(&[&["f d/a x", "f d/b x", "f d/s/c x"], &["f d/s/d x"]]);
    let stack = open(&layers);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..300 {
                    let paths = ["d", "d/a", "d/s", "d/s/d", "d/s/c"];
                    let mut held = Vec::new();
                    for path in paths {
                        let mut at = NodeNumber::ROOT;
                        for name in path.split('/') {
                            let found = stack.lookup(at, name.as_bytes()).expect("a lookup");
                            at = found.expect(path).node;
                            held.push(at);
                        }
                        assert!(stack.attributes(at).is_ok());
                    }
                    for node in held {
                        stack.forget(node, 1);
                    }
                }
            });
        }
    });
    assert_eq!(stack.nodes_in_use(), 1);
}

#[test]
fn several_file_systems_and_mounts_inside_a_layer() {
    if !require(Need::Root) {
        return;
    }
    in_private_mounts(|| {
        let mut lab = Lab::new();
        let layers = lab.layers(&[&["d t", "d bind", "f own/f x", "d d"], &["d d"]]);
        let tmpfs = |at: &std::path::Path| {
            mount(Some("x"), at, Some("tmpfs"), MsFlags::empty(), None::<&str>).expect("a tmpfs");
        };
        tmpfs(&layers[0].join("t"));
        tmpfs(&layers[1].join("d"));
        let none = None::<&str>;
        mount(
            Some(&layers[0].join("own")),
            &layers[0].join("bind"),
            none,
            MsFlags::MS_BIND,
            none,
        )
        .expect("a bind mount");
        for file in [layers[0].join("t/a"), layers[1].join("d/b")] {
            std::fs::write(file, "x").expect("a file");
        }
        let expected = [
            "d bind",
            "f bind/f x",
            "d d",
            "f d/b x",
            "d own",
            "f own/f x",
            "d t",
            "f t/a x",
        ];
        assert_eq!(text(&open(&layers)), expected);
        let all = numbers(&layers);
        let distinct: std::collections::BTreeSet<_> = all.values().collect();
        // Only the file that is bound has two names.
        assert_eq!(distinct.len() + 1, all.len());
        assert_eq!(all[&b"/bind/f"[..]], all[&b"/own/f"[..]]);
        // As if the mount on t were the one that shows this union.
        let stack = open(&layers);
        stack.set_own_device(std::fs::metadata(layers[0].join("t")).expect("t").dev());
        let text = text(&stack);
        assert!(text.contains(&"d t".to_owned()) && text.contains(&"f d/b x".to_owned()));
        assert!(find(&stack, "t/a").is_none());
    });
}
