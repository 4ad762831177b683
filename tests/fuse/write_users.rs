//! Writable unions of ordinary users: through fusermount3, and in user namespaces.

use std::fs;
use std::os::unix::fs::MetadataExt;

use crate::support::{Need, User, alone, command_as, require, succeed, text};
use crate::writable::{Writable, fingerprint};

fn union() -> Option<Writable> {
    require(&[Need::Fuse, Need::PlainUser]).then(|| Writable::of(User::Plain))
}

#[test]
fn an_ordinary_user_owns_the_tree_as_root_would() {
    let Some(union) = union() else { return };
    let before = fingerprint(&union.lower());
    let mount = union.mount(&[]);
    let script = "
        echo new > new; cat new; echo more >> small; cat small
        chown 12:34 new; chmod 4750 new; stat -c '%u %g %a' new
        mkfifo fifo; chown 7:8 fifo; stat -c '%F %u' fifo
        ln -s nowhere symlink; readlink symlink; chown -h 5:6 symlink; stat -c '%u %g %F' symlink
        mkdir made; chmod 700 made; mv dir/file made/; ls made; cat made/file
        rm -rf dir; ls
        ln small linked; stat -c %h small; rm small; cat linked; chown 12:34 linked
        touch -d @-5 linked; stat -c %Y linked
        dd if=/dev/zero of=zeros bs=4096 count=500 2>/dev/null; stat -c %s zeros";
    let said = union.shell(script);
    let expected = "new\nsmall\nmore\n12 34 4750\nfifo 7\nnowhere\n\
        5 6 symbolic link\nfile\nfile\nclosed\nfifo\nlarge\nlink\nmade\nnew\nsetid\nsmall\n\
        symlink\n2\nsmall\nmore\n-5\n2048000\n";
    assert_eq!(said, expected);
    mount.unmount();
    let mount = union.mount(&[]);
    let said = union.shell(
        "stat -c '%u %g %a' new; stat -c '%u' linked; stat -c '%F %u' fifo; readlink symlink",
    );
    assert_eq!(said, "12 34 4750\n12\nfifo 7\nnowhere\n");
    mount.unmount();
    assert_eq!(before, fingerprint(&union.lower()));
    // Nothing on disk belongs to anybody else.
    let uid = fs::metadata(union.upper()).unwrap().uid();
    assert_eq!(
        fs::symlink_metadata(union.upper().join("fifo"))
            .unwrap()
            .uid(),
        uid
    );
}

/// `sed -i` and `cp -p` set the mode by an ACL that says nothing else.
#[test]
fn regression_the_mode_of_an_ordinary_users_file_is_what_its_acl_says() {
    if !require(&[Need::Program("setfacl")]) {
        return;
    }
    let Some(union) = union() else { return };
    let mount = union.mount(&[]);
    // What the kernel has not heard of is told a moment later.
    let script = "
        mode() { n=0; while test $(stat -c %a $1) != $2; do test $n -lt 500; n=$((n+1)); sleep 0.01; done; }
        acl() { getfacl -cnE $1 2>/dev/null | tr '\\n' ' '; }
        echo text > f; chmod 644 f; sed -i s/text/changed/ f; mode f 644; cp -p f g; mode g 644
        setfacl -m u:5:rw,g::r,m::rw,o::- f; mode f 660; acl f; chmod 751 f; acl f; mode f 751
        setfacl -b f; mode f 741; getfattr -m- f";
    let said = union.shell(script);
    let expected = "user::rw- user:5:rw- group::r-- mask::rw- other::---  \
                    user::rwx user:5:rw- group::r-- mask::r-x other::--x  ";
    assert_eq!(said, expected);
    let unknown = union.shell("setfattr -n nonsense.name -v 1 f 2>&1 || true");
    assert!(unknown.contains("not supported"), "{unknown}");
    mount.unmount();
    let mount = union.mount(&[]);
    assert_eq!(union.shell("stat -c %a g; getfattr -m- g"), "644\n");
    mount.unmount();
}

/// The kernel applied the umask before anybody looked for a default ACL.
#[test]
fn regression_a_default_acl_of_an_ordinary_user_stands_for_the_umask() {
    if !require(&[Need::Program("setfacl")]) {
        return;
    }
    let Some(union) = union() else { return };
    let mount = union.mount(&[]);
    let script = "mkdir with; setfacl -d -m u::rwx,g::rwx,o::- with; umask 027
        for d in with dir; do touch $d/f; mkdir $d/d; mkfifo $d/p; stat -c %a $d/f $d/d $d/p; done";
    assert_eq!(union.shell(script), "660\n770\n660\n640\n750\n640\n");
    mount.unmount();
}

#[test]
fn small_writes_of_an_ordinary_user_are_collected() {
    let Some(union) = union() else { return };
    let mount = union.mount(&[]);
    let daemon = crate::fixture::daemon(mount.path()).unwrap();
    let calls = || -> u64 {
        let io = fs::read_to_string(format!("/proc/{daemon}/io")).unwrap();
        let line = io.lines().find(|line| line.starts_with("syscw")).unwrap();
        line.rsplit(' ').next().unwrap().parse().unwrap()
    };
    let before = calls();
    union.shell("dd if=/dev/zero of=f bs=4096 count=2000 2>/dev/null");
    // One answer for each request and one write to the upper for each WRITE.
    assert!(calls() - before < 200, "{} writes", calls() - before);
}

/// Runs a shell script as root of a user namespace that has one user, which is given the command that mounts as its
/// arguments and the mount point as `$0`.
fn in_a_user_namespace(union: &Writable, script: &str) -> String {
    if crate::support::is_root() {
        // Somebody whom the namespace does not know could do nothing but be looked at.
        let mut chown = std::process::Command::new("chown");
        succeed(chown.args(["-R", "65534:65534"]).arg(union.lower()));
    }
    let mut mount = union.command(&[]);
    mount.env_clear();
    let words: Vec<_> = std::iter::once(mount.get_program())
        .chain(mount.get_args())
        .map(|word| word.to_os_string())
        .collect();
    let program = words
        .iter()
        .position(|word| word.to_string_lossy().ends_with("/plyfs"))
        .unwrap();
    let mut command = command_as(User::Plain, "unshare");
    let how = ["--user", "--map-root-user", "--mount", "--", "sh", "-euc"];
    command.args(how).arg(script);
    command
        .arg(union.store.mountpoint())
        .args(&words[program..]);
    command.env("D", union.upper().parent().unwrap());
    text(&succeed(&mut alone(&command)))
}

#[test]
fn in_a_user_namespace_owners_are_real_and_permissions_checked() {
    let Some(union) = union() else { return };
    let script = "\"$@\"; cd \"$0\"; grep -o 'fuse.plyfs rw.*' /proc/self/mounts
        echo x > a; chmod 600 a; stat -c '%u %a' a; rm small; ls
        cd /; umount \"$0\"";
    let said = in_a_user_namespace(&union, script);
    assert!(said.contains("default_permissions"), "{said}");
    assert!(said.contains("0 600\n"), "{said}");
    assert!(!said.contains("small"), "{said}");
    assert!(union.upper().join("a").exists());
}

/// The kernel mounts there with `userxattr`: what we wrote, and we what it wrote.
#[test]
fn in_a_user_namespace_the_kernel_and_we_understand_each_other() {
    let Some(union) = union() else { return };
    let script = "
        show() {
            cd \"$1\"; find . -type d -printf '%p %y %m\\n' -o -printf '%p %y %m %s %l\\n' | sort
            find . -type f | sort | xargs cat | cksum; cd /
        }
        mkdir \"$D/kernel\"
        kernel() {
            mount -t overlay overlay \"$1\" -o \"userxattr,lowerdir=$D/lower,upperdir=$D/upper,workdir=$D/kernel\"
        }
        \"$@\"; cd \"$0\"
        rm small; mkdir small; echo in > small/in; mv dir/file dir/moved; rm -r dir/sub; mkdir dir/sub
        ln -sf new link; echo more >> setid; chmod 711 closed; mv closed dir/open; mkfifo fifo
        show \"$0\" > \"$D/ours\"; umount \"$0\"
        kernel \"$0\"; show \"$0\" > \"$D/theirs\"; diff \"$D/ours\" \"$D/theirs\"
        cd \"$0\"; rm -r small; echo back > small; mkdir dir/sub/new; rm dir/moved; echo 2 > dir/moved; rm large fifo
        mkdir closed; mv dir/open/in closed
        show \"$0\" > \"$D/theirs\"; umount \"$0\"
        \"$@\"; show \"$0\" > \"$D/ours\"; diff \"$D/theirs\" \"$D/ours\"
        umount \"$0\"";
    assert_eq!(in_a_user_namespace(&union, script), "");
}

/// What was done in spite of an error is found: the kernel would believe for ever that it is not there.
#[test]
fn regression_a_name_that_was_made_in_spite_of_an_error_is_there() {
    const OWNER: &str = "user.containers.override_stat";
    let Some(union) = union() else { return };
    let mount = union.mount(&[]);
    let own = |owner: &str| {
        let mut set = std::process::Command::new("setfattr");
        let set = set.args(["-n", OWNER, "-v", owner]);
        succeed(set.arg(union.upper().join("file")));
    };
    union.shell("echo text > file; ! test -e other");
    own("nobody knows");
    let said = union.shell("ln file other 2>&1 || true");
    assert!(said.contains("Input/output error"), "{said}");
    own("0:0:644:file");
    // The kernel is told after it was answered.
    union.shell("n=0; while ! test -e other; do test $n -lt 500; n=$((n+1)); sleep 0.01; done");
    mount.unmount();
}
