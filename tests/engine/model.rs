//! Random stacks of layers against a flattening in memory that knows no system call.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::support::{Lab, Need, make, open, require, rows};
use plyfs::layer::FileKind;
use proptest::prelude::*;

/// What a layer has at a path.
#[derive(Clone, Debug)]
enum Thing {
    File(u8),
    Link,
    Directory { opaque: bool },
    Whiteout,
}

const NAMES: [&str; 4] = ["a", "b", "c", "d"];

/// Path to thing; parents that are not there become directories.
type Layer = BTreeMap<String, Thing>;

fn thing() -> impl Strategy<Value = Thing> {
    prop_oneof![
        3 => any::<u8>().prop_map(Thing::File),
        1 => Just(Thing::Link),
        3 => prop::bool::weighted(0.2).prop_map(|opaque| Thing::Directory { opaque }),
        2 => Just(Thing::Whiteout),
    ]
}

fn layer() -> impl Strategy<Value = Layer> {
    let path = prop::collection::vec(prop::sample::select(&NAMES[..]), 1..4);
    let entries = prop::collection::vec((path.prop_map(|p| p.join("/")), thing()), 0..14);
    entries.prop_map(|entries| {
        let mut layer = Layer::new();
        for (path, thing) in entries {
            // Below a file or a whiteout nothing can be.
            let above = path.match_indices('/').map(|(at, _)| path[..at].to_owned());
            if above
                .clone()
                .any(|p| !matches!(layer.get(&p), None | Some(Thing::Directory { .. })))
                || layer
                    .keys()
                    .any(|known| known.starts_with(&format!("{path}/")))
                || layer.contains_key(&path)
            {
                continue;
            }
            for parent in above {
                layer
                    .entry(parent)
                    .or_insert(Thing::Directory { opaque: false });
            }
            layer.insert(path, thing);
        }
        layer
    })
}

/// Lines for [`make`], in one dialect of absence or another.
fn lines(layer: &Layer, dialect: u8) -> Vec<String> {
    let mut lines = Vec::new();
    for (path, thing) in layer {
        match thing {
            Thing::File(content) => lines.push(format!("f {path} {content}")),
            Thing::Link => lines.push(format!("l {path} a/b")),
            Thing::Directory { opaque } => {
                lines.push(format!("d {path}"));
                if *opaque {
                    lines.push(match dialect % 2 {
                        0 => format!("x {path} trusted.overlay.opaque y"),
                        _ => format!("oa {path}"),
                    });
                }
            }
            Thing::Whiteout => lines.push(match dialect % 3 {
                0 => format!("wc {path}"),
                _ => format!("wa {path}"),
            }),
        }
    }
    lines
}

/// What the union of `layers`, topmost first, must be.
fn flatten(layers: &[Layer]) -> BTreeMap<String, Thing> {
    let mut all: BTreeMap<String, Thing> = BTreeMap::new();
    for layer in layers.iter().rev() {
        for (path, thing) in layer {
            let replaces = !matches!(thing, Thing::Directory { opaque: false })
                || !matches!(all.get(path), Some(Thing::Directory { .. }));
            if replaces {
                let below = format!("{path}/");
                all.retain(|known, _| known != path && !known.starts_with(&below));
            }
            if !matches!(thing, Thing::Whiteout) {
                all.insert(path.clone(), thing.clone());
            }
        }
    }
    all
}

fn agree(layers: &[Layer], dialects: &[u8]) {
    let mut lab = Lab::new();
    let paths: Vec<PathBuf> = layers
        .iter()
        .zip(dialects.iter().cycle())
        .map(|(layer, dialect)| {
            let path = lab.empty();
            for line in lines(layer, *dialect) {
                make(&path, &line).expect("an object");
            }
            path
        })
        .collect();
    let expected: Vec<String> = flatten(layers)
        .iter()
        .map(|(path, thing)| match thing {
            Thing::File(content) => format!("/{path} {content}"),
            Thing::Link => format!("/{path} -> a/b"),
            _ => format!("/{path}/"),
        })
        .collect();
    let found = rows(&open(&paths)).into_iter().map(|(path, row)| {
        let path = path.escape_ascii();
        match row.kind {
            FileKind::Regular => format!("{path} {}", row.content.escape_ascii()),
            FileKind::Symlink => format!("{path} -> {}", row.target.escape_ascii()),
            _ => format!("{path}/"),
        }
    });
    assert_eq!(found.collect::<Vec<_>>(), expected);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..Default::default() })]

    #[test]
    fn a_stack_is_its_layers_flattened(
        layers in prop::collection::vec(layer(), 1..6),
        dialects in prop::collection::vec(any::<u8>(), 6),
    ) {
        if require(Need::Root) {
            agree(&layers, &dialects);
        }
    }
}

/// Layers in the dialect of the kernel, the same for the same seed.
pub fn random_layers(lab: &mut Lab, seed: u8) -> Vec<PathBuf> {
    use proptest::strategy::ValueTree;
    use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &[seed; 32]);
    let mut runner = TestRunner::new_with_rng(Config::default(), rng);
    let layers = prop::collection::vec(layer(), 1..6).new_tree(&mut runner);
    let layers = layers.expect("random layers").current();
    let mut make_layer = |layer: &Layer| {
        let path = lab.empty();
        for line in lines(layer, 0) {
            make(&path, &line).expect("an object");
        }
        path
    };
    layers.iter().map(&mut make_layer).collect()
}
