//! From a name to a node.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::directory::{Contents, Entry, Object};
use super::engine::{Engine, check_name, parent_of};
use super::node::{Node, Stage, State};
use super::upper::{Looks, Reach, failed, index_name};
use crate::layer::FileKind;
use crate::layer::directory::Redirect;
use crate::sys::writable::At;
use crate::union::{Attributes, Error, NodeNumber, Result};

/// What the marks of an upper object say.
struct Marks {
    is_opaque: bool,
    is_metacopy: bool,
    redirect: Option<Box<[u8]>>,
    origin: Option<u64>,
}

impl Engine {
    /// See [`super::Overlay::lookup`].
    pub(super) fn lookup(&self, directory: NodeNumber, name: &[u8]) -> Result<Option<Attributes>> {
        check_name(name)?;
        let _still = self.still();
        let directory = match name {
            b"." => self.node(directory)?,
            _ => self.directory(directory)?,
        };
        let node = match name {
            b"." => directory,
            b".." => parent_of(&directory)?,
            _ => match self.find(&directory, name)? {
                Some(node) => {
                    let attributes = self.attributes_of(&node);
                    if attributes.is_err() {
                        self.release(node.number, 1);
                    }
                    return attributes.map(Some);
                }
                None => return Ok(None),
            },
        };
        let attributes = self.attributes_of(&node)?;
        self.table.hold_again(&node);
        Ok(Some(attributes))
    }

    /// The node of a name; takes a reference. The tree must not change meanwhile.
    pub(super) fn find(&self, directory: &Arc<Node>, name: &[u8]) -> Result<Option<Arc<Node>>> {
        let contents = self.contents(directory)?;
        self.find_in(directory, &contents, name)
    }

    /// As [`Engine::find`], where the contents are at hand.
    pub(super) fn find_in(
        &self,
        directory: &Arc<Node>,
        contents: &Contents,
        name: &[u8],
    ) -> Result<Option<Arc<Node>>> {
        match contents.get(name) {
            Some(Entry::Whiteout) => Ok(None),
            Some(Entry::Object(object)) => {
                self.hold_upper(directory, contents, name, object).map(Some)
            }
            None => match contents.base {
                Some(base) => self.hold_base(directory, base, name),
                None => Ok(None),
            },
        }
    }

    /// Whether the base shows that name in a directory, if nothing hides it.
    pub(super) fn base_has(&self, contents: &Contents, name: &[u8]) -> Result<bool> {
        match contents.base {
            Some(base) => self.base.contains(NodeNumber(base), name),
            None => Ok(false),
        }
    }

    /// The node of something that only the base has.
    fn hold_base(
        &self,
        directory: &Arc<Node>,
        base: u64,
        name: &[u8],
    ) -> Result<Option<Arc<Node>>> {
        let Some(found) = self.base.lookup(NodeNumber(base), name)? else {
            return Ok(None);
        };
        Ok(Some(self.hold_found(directory, name, &found)))
    }

    /// The node of an object of the base to which a reference was taken.
    pub(super) fn hold_found(
        &self,
        directory: &Arc<Node>,
        name: &[u8],
        found: &Attributes,
    ) -> Arc<Node> {
        let base = found.node.0;
        let linked = found.kind != FileKind::Directory && found.nlink > 1;
        let mut number = if linked {
            self.current_number(base)
        } else {
            base
        };
        let (node, is_new) = loop {
            let (node, is_new) = self.table.hold_or(number, || {
                let place = Some((Arc::clone(directory), Box::from(name)));
                let mut state = State::base(place);
                if linked && self.index.is_copied(base) {
                    state.stage = Stage::Upper;
                    state.indexed = true;
                    // Only names in the upper are places of what is in the upper.
                    state.place = None;
                }
                let mut node = Node::new(number, found.kind, Some(base), state);
                node.linked_in_base = linked;
                node.ino = base;
                node
            });
            if is_new || !node.state.read().detached {
                break (node, is_new);
            }
            self.release(number, 1);
            number = self.replacement(base);
        };
        if is_new {
            let has_place = node.state.read().place.is_some();
            if has_place {
                self.table.hold_again(directory);
            } else {
                self.settle_indexed(&node);
            }
        } else {
            self.base.forget(NodeNumber(base), 1);
            let mut state = node.state.write();
            if state.place.is_none() && state.stage == Stage::Base && !state.detached {
                self.table.hold_again(directory);
                state.place = Some((Arc::clone(directory), Box::from(name)));
                state.gone = false;
            }
        }
        node
    }

    /// Learns what the index has for a node that was just made.
    fn settle_indexed(&self, node: &Arc<Node>) {
        let reach = Reach::new(&self.upper.index, &index_name(node.ino));
        let looks = reach.at().stat();
        let metacopy = reach.at().xattr(&self.upper.names.metacopy);
        let mut state = node.state.write();
        if let Ok(stat) = looks {
            state.upper_ino = stat.ino;
        }
        if matches!(metacopy, Ok(Some(_))) {
            state.stage = Stage::Metacopy;
        }
    }

    /// The number by which the object with this number of its own is known at present.
    fn current_number(&self, number: u64) -> u64 {
        if let Some(current) = self.replaced.lock().get(&number) {
            return *current;
        }
        number
    }

    /// The same, where the node of that number was replaced and is still in use.
    fn replacement(&self, number: u64) -> u64 {
        let mut replaced = self.replaced.lock();
        *(replaced.entry(number)).or_insert_with(|| self.numbers.fresh())
    }

    /// The node of something that the upper has.
    fn hold_upper(
        &self,
        directory: &Arc<Node>,
        contents: &Contents,
        name: &[u8],
        object: &Object,
    ) -> Result<Arc<Node>> {
        let known = object.node.load(Ordering::Relaxed);
        if known != 0
            && let Some(node) = self.table.hold(known)
        {
            if node.state.read().upper_ino == object.upper_ino {
                self.adopt_place(&node, directory, name);
                return Ok(node);
            }
            self.release(known, 1);
        }
        let reach = Reach::new(&self.upper.directory(directory)?, name);
        let looks = self.upper.looks(reach.at())?;
        let marks = self.marks(reach.at(), looks.kind, contents.impure)?;
        let found = self.base_object(contents, name, &looks, &marks)?;
        let node = self.settle(directory, name, &looks, &marks, found);
        object.node.store(node.number, Ordering::Relaxed);
        Ok(node)
    }

    /// Gives a node that has lost its place another one.
    fn adopt_place(&self, node: &Arc<Node>, directory: &Arc<Node>, name: &[u8]) {
        let mut state = node.state.write();
        if state.place.is_none() && !state.detached {
            self.table.hold_again(directory);
            state.place = Some((Arc::clone(directory), Box::from(name)));
            state.pin = None;
            state.gone = false;
        }
    }

    fn marks(&self, at: At<'_>, kind: FileKind, impure: bool) -> Result<Marks> {
        let names = &self.upper.names;
        let mut marks = Marks {
            is_opaque: false,
            is_metacopy: false,
            redirect: None,
            origin: None,
        };
        if kind != FileKind::Directory && !impure {
            return Ok(marks);
        }
        let doing = failed("reading the marks of an object of the upper");
        let all = at.xattr_names().map_err(&doing)?;
        for name in all.split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
            let value = || {
                at.xattr(name)
                    .map_err(&doing)
                    .map(Option::unwrap_or_default)
            };
            if name == names.opaque {
                marks.is_opaque = value()? == b"y";
            } else if name == names.metacopy {
                marks.is_metacopy = kind == FileKind::Regular;
            } else if name == names.redirect {
                marks.redirect = Some(value()?.into());
            } else if name == names.origin {
                marks.origin = self.upper.parse_origin(&value()?).map(|number| number.0);
            }
        }
        Ok(marks)
    }

    /// The object of the base that shows through one of the upper; takes a reference.
    fn base_object(
        &self,
        contents: &Contents,
        name: &[u8],
        looks: &Looks,
        marks: &Marks,
    ) -> Result<Option<Attributes>> {
        let shows_through = match looks.kind {
            FileKind::Directory => !marks.is_opaque,
            _ => marks.is_metacopy,
        };
        if !shows_through {
            return Ok(None);
        }
        let found = match (&marks.redirect, contents.base) {
            (Some(redirect), base) => match (Redirect::parse(redirect), base) {
                (Redirect::Absolute(path), _) => self.base_path(&path)?,
                (Redirect::Relative(name), Some(base)) => {
                    self.base.lookup(NodeNumber(base), &name)?
                }
                (Redirect::Relative(_), None) => None,
                (Redirect::Invalid(value), _) => {
                    let value = value.escape_ascii();
                    return Err(Error::broken(format!("following the redirect {value}")));
                }
            },
            (None, Some(base)) => self.base.lookup(NodeNumber(base), name)?,
            (None, None) => None,
        };
        let Some(found) = found else {
            return Ok(None);
        };
        if found.kind != looks.kind {
            self.base.forget(found.node, 1);
            return Ok(None);
        }
        Ok(Some(found))
    }

    /// Walks down the base; takes a reference to what it finds.
    fn base_path(&self, path: &[Box<[u8]>]) -> Result<Option<Attributes>> {
        let mut at: Option<Attributes> = None;
        for name in path {
            let directory = at.map_or(NodeNumber::ROOT, |at| at.node);
            let next = match at {
                Some(at) if at.kind != FileKind::Directory => Ok(None),
                _ => self.base.lookup(directory, name),
            };
            if let Some(at) = at {
                self.base.forget(at.node, 1);
            }
            match next? {
                Some(next) => at = Some(next),
                None => return Ok(None),
            }
        }
        Ok(at)
    }

    /// The node of an object of the upper, of which all is known.
    fn settle(
        &self,
        directory: &Arc<Node>,
        name: &[u8],
        looks: &Looks,
        marks: &Marks,
        found: Option<Attributes>,
    ) -> Arc<Node> {
        let is_directory = looks.kind == FileKind::Directory;
        let base = found.map(|found| found.node.0);
        let own = if is_directory {
            base.or(marks.origin)
        } else {
            marks.origin.or(base)
        };
        let stage = if marks.is_metacopy {
            Stage::Metacopy
        } else {
            Stage::Upper
        };
        let linked = found.is_some_and(|found| !is_directory && found.nlink > 1);
        let mut number = own.map(|own| self.current_number(own));
        let mut shown = own;
        loop {
            let candidate = number.unwrap_or_else(|| self.numbers.of_upper(looks.stat.ino));
            let ino = shown.unwrap_or(candidate);
            let (node, is_new) = self.table.hold_or(candidate, || {
                let indexed = !is_directory && own.is_some_and(|own| self.index.is_copied(own));
                let state = State {
                    stage,
                    upper_ino: looks.stat.ino,
                    redirect: marks.redirect.clone(),
                    indexed,
                    ..State::base(Some((Arc::clone(directory), Box::from(name))))
                };
                // Kept even without data from there: the number is what the index knows it by.
                let mut node = Node::new(candidate, looks.kind, base, state);
                node.linked_in_base = linked;
                node.ino = ino;
                if own.is_none() {
                    node.generation = looks.generation();
                }
                node
            });
            if is_new {
                self.table.hold_again(directory);
                return node;
            }
            if node.state.read().upper_ino == looks.stat.ino && node.kind == looks.kind {
                if let Some(base) = base {
                    self.base.forget(NodeNumber(base), 1);
                }
                self.adopt_place(&node, directory, name);
                return node;
            }
            // Something else is known by that number at present: another object, or this one as
            // it was before it was replaced.
            let is_former = node.state.read().detached;
            self.release(candidate, 1);
            number = Some(match own {
                Some(own) if is_former => self.replacement(own),
                _ => {
                    shown = None;
                    self.numbers.fresh()
                }
            });
        }
    }
}
