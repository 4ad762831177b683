//! The store under fire: at each step of each command that writes the process is killed, the disk is full,
//! the system call fails, or power is lost. Whatever was stored is whole then, the next commands succeed, and
//! nothing else is left.
//!
//! A few steps of each command are tried, or every one where `EVERY_STEP` is set (`make torture`).

// Registers have other names elsewhere.
#![cfg(target_arch = "x86_64")]

#[path = "../support/mod.rs"]
mod support;

mod ground;
mod lab;
mod tracer;
mod verbs;

use std::collections::BTreeSet;
use std::fs;

use ground::Disk;
use lab::{Images, Lab};
use support::{Need, require, text};
use tracer::{Fault, Run};
use verbs::{VERBS, Verb};

/// So many steps of each command are tried, of those that it has.
const STEPS: usize = 3;

/// What people see.
#[derive(Debug, PartialEq)]
struct Shown {
    listed: BTreeSet<String>,
    /// What was saved.
    out: Option<Vec<u8>>,
    /// What the name that is pushed stands for in the registry.
    pushed: Option<String>,
}

impl Shown {
    fn by(lab: &Lab) -> Shown {
        let tag = "_manifests/tags/1/current/link";
        let pushed = lab.pushed().map(|pushed| pushed.join(tag));
        Shown {
            listed: lab.listed(),
            out: fs::read(lab.path("work/out.tar")).ok(),
            pushed: pushed.and_then(|link| fs::read_to_string(link).ok()),
        }
    }
}

/// What a store is, before or after a command, when somebody has tidied up.
struct State {
    shown: Shown,
    images: Images,
    objects: BTreeSet<String>,
    /// What an ordinary command said, if it failed.
    refused: Option<String>,
}

impl State {
    fn of(lab: &Lab) -> State {
        let (shown, tidied) = (Shown::by(lab), lab.tidy());
        let content = |name: &String| (name.clone(), lab.content(name));
        State {
            images: shown.listed.iter().map(content).collect(),
            shown,
            objects: lab.objects(),
            refused: (!tidied.status.success()).then(|| text(&tidied)),
        }
    }
}

/// A command that is tortured.
struct Trial<'a> {
    lab: &'a Lab,
    verb: &'a Verb,
    before: State,
    after: State,
}

impl<'a> Trial<'a> {
    fn new(lab: &'a Lab, verb: &'a Verb) -> Trial<'a> {
        let begin = || {
            lab.ground.reset();
            (verb.set_up)(lab);
        };
        begin();
        let before = State::of(lab);
        begin();
        support::succeed(&mut lab.command(verb.words));
        let after = State::of(lab);
        assert!(verb.repairs || before.refused.is_none());
        assert_eq!(after.refused, None);
        Trial {
            lab,
            verb,
            before,
            after,
        }
    }

    fn run(&self, at: usize, fault: Fault) -> Run {
        self.lab.ground.reset();
        (self.verb.set_up)(self.lab);
        let work = self.lab.ground.work();
        if self.lab.ground.loses_power() {
            let directory = fs::File::open(&work).unwrap();
            nix::unistd::syncfs(directory).unwrap();
        }
        tracer::run(&self.lab.command(self.verb.words), &work, at, fault)
    }

    /// What is wrong after a run of which it is only known how it ended.
    fn judge(&self, run: &Run) -> Vec<String> {
        let mut wrong = Vec::new();
        let (lab, verb) = (self.lab, self.verb);
        if !matches!(run.status, None | Some(0 | 1)) {
            wrong.push(format!("it ended with {:?}", run.status));
        }
        let reported = run.status == Some(0);
        let shown = Shown::by(lab);
        let is_as_after = shown == self.after.shown;
        if !is_as_after && (reported || shown != self.before.shown) {
            let what = shown.listed.difference(&self.after.shown.listed);
            let out = shown.out.as_ref().map(Vec::len);
            let pushed = &shown.pushed;
            wrong.push(format!(
                "neither as before nor as after: {what:?}, out.tar {out:?}, pushed {pushed:?}"
            ));
        }
        // What was damaged shows only in part.
        let is_done = is_as_after && (reported || !verb.repairs);
        // Ordinary work goes on, and finds nothing that is in its way. Where it could not before, it would leave
        // something.
        let is_refused = !is_as_after && self.before.refused.is_some();
        if !is_refused {
            let tidied = lab.tidy();
            if !tidied.status.success() {
                wrong.push(format!("the next command: {}", text(&tidied)));
            }
        }
        let objects = lab.objects();
        let known = match is_done {
            true => &self.after,
            false => &self.before,
        };
        let is_restored = |name: &&String| verb.repairs && self.after.objects.contains(*name);
        let more = objects.difference(&known.objects);
        let more: Vec<_> = more.filter(|name| !is_restored(name)).collect();
        let may_go_on = verb.resumes && !is_done;
        if !more.is_empty() && !may_go_on {
            wrong.push(format!("not reclaimed: {more:?}"));
        }
        let less: Vec<_> = known.objects.difference(&objects).collect();
        let may_be_put_aside = verb.repairs && !is_done;
        if !less.is_empty() && !may_be_put_aside {
            wrong.push(format!("lost: {less:?}"));
        }
        let mut left = lab.left();
        if may_go_on || is_refused {
            left.retain(|name| !name.starts_with("store/"));
        }
        if !left.is_empty() {
            wrong.push(format!("left: {left:?}"));
        }
        for name in &shown.listed {
            let found = lab.content(name);
            let known = [&self.before, &self.after].map(|state| state.images.get(name));
            let is_being_repaired = verb.repairs && !is_done && known[0] != known[1];
            if !known.contains(&Some(&found)) && !is_being_repaired {
                wrong.push(format!("{name} is not what it was: {found}"));
            }
        }
        self.judge_the_end(is_done, &mut wrong);
        wrong
    }

    /// Whether the command can be given again, and all is well after that.
    fn judge_the_end(&self, is_done: bool, wrong: &mut Vec<String>) {
        let (lab, verb) = (self.lab, self.verb);
        let mut sound = |when: &str| {
            let checked = lab.output(&["check"]);
            if !checked.status.success() {
                wrong.push(format!("check, {when}: {}", text(&checked)));
            }
        };
        if is_done || !verb.repairs {
            sound("before it is given again");
        }
        let again = lab.output(verb.words);
        let said = text(&again);
        let is_no_more = is_done && !verb.gone.is_empty() && said.contains(verb.gone);
        if !again.status.success() && !is_no_more {
            wrong.push(format!("given again: {said}"));
        }
        let now = State::of(lab);
        let mut sound = |what: &str, is: bool| {
            if !is {
                wrong.push(format!("given again: {what} are not what they should be"));
            }
        };
        sound("names", now.shown.listed == self.after.shown.listed);
        sound("archives", now.shown.out == self.after.shown.out);
        sound("tags", now.shown.pushed == self.after.shown.pushed);
        sound("images", now.images == self.after.images);
        sound("objects", now.objects == self.after.objects);
        sound("ordinary commands", now.refused.is_none());
        let left = lab.left();
        if !left.is_empty() {
            wrong.push(format!("given again, left: {left:?}"));
        }
    }
}

/// Whether every step is to be tried.
fn is_long() -> bool {
    std::env::var_os("EVERY_STEP").is_some()
}

/// Tries steps of all commands; `then` is what happens to the disk after each, by their number. `VERB`
/// names one of the commands, if it should be only that.
fn torture(lab: &Lab, name: &str, fault: Fault, then: impl Fn(&Lab, usize)) {
    let only = std::env::var("VERB").ok().filter(|only| !only.is_empty());
    let mut wrong = Vec::new();
    for verb in VERBS {
        let is_left_out = only.as_ref().is_some_and(|only| only != verb.name);
        if is_left_out || verb.is_remote() && lab.registry.is_none() {
            continue;
        }
        let trial = Trial::new(lab, verb);
        let steps = trial.run(usize::MAX, fault).steps;
        let stride = match is_long() {
            true => 1,
            false => steps.div_ceil(STEPS).max(1),
        };
        let (mut tried, mut at) = (0, 0);
        loop {
            let run = trial.run(at, fault);
            then(lab, tried);
            tried += 1;
            let hit = run.hit.clone().unwrap_or_else(|| "the end".to_owned());
            let found = trial.judge(&run);
            let what = format!("{}: {name} {at}/{steps}, {hit}: ", verb.name);
            wrong.extend(
                found
                    .iter()
                    .map(|found| format!("{what}{found}\n    {}", run.said)),
            );
            // It has come to its end, and that was judged, too.
            if run.hit.is_none() {
                break;
            }
            at += stride;
        }
        println!("{name}: {}: {tried} of {steps} steps", verb.name);
    }
    assert!(
        wrong.is_empty(),
        "{} found:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
}

#[test]
fn killed_at_any_step() {
    torture(&Lab::new(None), "killed", Fault::Kill, |_, _| {});
}

#[test]
fn no_space_from_any_step_on() {
    torture(&Lab::new(None), "full", Fault::Full, |_, _| {});
}

#[test]
fn any_step_fails() {
    torture(&Lab::new(None), "failed", Fault::Once, |_, _| {});
}

fn power_is_lost(disk: Disk) {
    if !require(&[Need::Root, Need::Program(disk.program())]) {
        return;
    }
    let lab = Lab::new(Some(disk));
    // Every other time another program had synced its own file before; the second time it is the others.
    for pass in 0..=usize::from(is_long()) {
        torture(&lab, &format!("{disk:?}"), Fault::Kill, |lab, tried| {
            lab.ground.lose_power((tried + pass) % 2 == 0);
        });
    }
}

#[test]
fn power_is_lost_on_ext4() {
    power_is_lost(Disk::Ext4);
}

#[test]
fn power_is_lost_on_ext4_that_does_not_sync_for_us() {
    power_is_lost(Disk::Ext4Careless);
}

#[test]
fn power_is_lost_on_xfs() {
    power_is_lost(Disk::Xfs);
}

#[test]
fn power_is_lost_on_btrfs() {
    power_is_lost(Disk::Btrfs);
}

/// Ten processes at once; `scripts/store-races` does it for longer.
#[test]
fn many_processes_at_once() {
    let programs = ["python3", "docker-registry", "skopeo"].map(Need::Program);
    if !require(&[&[Need::Root, Need::Fuse], &programs[..]].concat()) {
        return;
    }
    let directory = support::temp_dir();
    let mut races = std::process::Command::new(support::script("store-races"));
    races.args(["--minutes", "0.2", "--plyfs"]);
    races
        .arg(support::plyfs_program())
        .arg("--work")
        .arg(directory.path());
    print!("{}", text(&support::succeed(&mut races)));
}
