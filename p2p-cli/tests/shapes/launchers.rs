//! Ranks as each launcher starts them: its variables, and nothing else, say which process is which.

use std::net::TcpListener;
use std::process::{Child, Output};

use crate::program::{FOUR_NICS, bench, finish, free_port, good, says, text};

/// GPUs of two hosts, on NICs of their own.
const SMALL: [&str; 9] =
    ["--shape", "per-gpu", "--gpus", "0,4", "--sizes", "70000,300001", "--seconds", "1", "--channels=2"];
const WORLD: u32 = 4;

type Variables = Vec<(&'static str, String)>;

/// Starts the ranks, the last one first, with what `variables` gives to each.
fn start(ranks: impl DoubleEndedIterator<Item = u32>, variables: impl Fn(u32) -> Variables) -> Vec<Child> {
    let one = |rank| {
        let mut command = bench(&SMALL);
        command.envs(variables(rank)).env("TCPX_SOFT_ADDRESSES", FOUR_NICS).spawn().unwrap()
    };
    let mut all: Vec<Child> = ranks.rev().map(one).collect();
    all.reverse();
    all
}

/// All end well; rank 0 tells what all came to, and the others leave it to it.
#[track_caller]
fn run(variables: impl Fn(u32) -> Variables) {
    let outputs: Vec<Output> = start(0..WORLD, variables).into_iter().map(finish).collect();
    let said: Vec<String> = outputs.iter().map(good).collect();
    assert!(said[0].contains("2 hosts, 4 processes, 4 endpoints, 4 pairs, 8 channels"), "{}", said[0]);
    assert_eq!(said[0].matches("every byte as it should be").count(), 2, "{}", said[0]);
    assert!(said[0].contains("host 0 uses 2 NICs: lo-127.0.0.1, lo-127.0.0.3"), "{}", said[0]);
    assert!(said[1..].iter().all(String::is_empty), "{said:?}");
}

fn torchrun(rank: u32, port: u16) -> Variables {
    vec![
        ("RANK", rank.to_string()),
        ("WORLD_SIZE", WORLD.to_string()),
        ("LOCAL_RANK", (rank % 2).to_string()),
        ("LOCAL_WORLD_SIZE", "2".to_owned()),
        ("GROUP_RANK", (rank / 2).to_string()),
        ("MASTER_ADDR", "127.0.0.1".to_owned()),
        ("MASTER_PORT", port.to_string()),
    ]
}

#[test]
fn ranks_of_torchrun_find_each_other() {
    let port = free_port();
    run(|rank| torchrun(rank, port));
}

#[test]
fn ranks_of_torchrun_do_without_the_port_of_its_own_store() {
    let port = free_port();
    let _store = TcpListener::bind(("127.0.0.1", port)).unwrap();
    run(|rank| {
        let mut variables = torchrun(rank, port);
        variables.push(("TORCHELASTIC_USE_AGENT_STORE", "True".to_owned()));
        variables
    });
}

#[test]
fn ranks_of_srun_find_each_other() {
    let port = free_port();
    run(|rank| {
        vec![
            ("SLURM_PROCID", rank.to_string()),
            ("SLURM_NTASKS", WORLD.to_string()),
            ("SLURM_LOCALID", (rank % 2).to_string()),
            ("SLURM_NODEID", (rank / 2).to_string()),
            ("SLURM_STEP_TASKS_PER_NODE", "2(x2)".to_owned()),
            ("SLURM_STEP_NODELIST", "127.0.0.[1-2]".to_owned()),
            ("UCCL_TCPX_BOOTSTRAP_PORT_BASE", port.to_string()),
        ]
    });
}

#[test]
fn ranks_of_open_mpis_mpirun_find_each_other() {
    let port = free_port();
    run(|rank| {
        vec![
            ("OMPI_COMM_WORLD_RANK", rank.to_string()),
            ("OMPI_COMM_WORLD_SIZE", WORLD.to_string()),
            ("OMPI_COMM_WORLD_LOCAL_RANK", rank.to_string()),
            ("OMPI_COMM_WORLD_LOCAL_SIZE", WORLD.to_string()),
            ("UCCL_TCPX_BOOTSTRAP_PORT_BASE", port.to_string()),
        ]
    });
}

#[test]
fn ranks_of_mpichs_mpirun_find_each_other() {
    let port = free_port();
    run(|rank| {
        vec![
            ("PMI_RANK", rank.to_string()),
            ("PMI_SIZE", WORLD.to_string()),
            ("MPI_LOCALRANKID", rank.to_string()),
            ("MPI_LOCALNRANKS", WORLD.to_string()),
            ("MASTER_ADDR", "127.0.0.1".to_owned()),
            ("MASTER_PORT", port.to_string()),
        ]
    });
}

#[test]
fn ranks_that_were_told_by_hand_find_each_other() {
    let port = free_port().to_string();
    let start = |rank: &str| {
        let mut command = bench(&SMALL);
        command.args(["--rank", rank, "--world", "4", "--peer", "127.0.0.1"]);
        command.env("TCPX_SOFT_ADDRESSES", FOUR_NICS).env("UCCL_TCPX_BOOTSTRAP_PORT_BASE", &port);
        command.spawn().unwrap()
    };
    let all = ["3", "1", "0", "2"].map(start);
    let said: Vec<String> = all.into_iter().map(|child| good(&finish(child))).collect();
    assert_eq!(said[2].matches("every byte as it should be").count(), 2, "{}", said[2]);
}

#[test]
fn who_does_not_come_is_named_by_all_who_did() {
    let port = free_port();
    let variables = |rank| {
        let mut variables = torchrun(rank, port);
        variables.push(("UCCL_TCPX_CONNECT_TIMEOUT_SECONDS", "3".to_owned()));
        variables
    };
    let mut all = start(0..2, variables);
    all.extend(start(3..4, variables));
    for child in all {
        says(&finish(child), &["rank 2 did not come", "UCCL_TCPX_CONNECT_TIMEOUT_SECONDS"]);
    }
}

#[test]
fn variables_that_contradict_or_are_missing_are_named() {
    let wrong = |name: &'static str, value: &str| {
        let mut variables = torchrun(1, 1);
        variables.push((name, value.to_owned()));
        let mut all = start(1..2, |_| variables.clone());
        finish(all.remove(0))
    };
    says(&wrong("RANK", "7"), &["RANK=7", "WORLD_SIZE=4"]);
    says(&wrong("MASTER_PORT", "many"), &["MASTER_PORT=many"]);
    says(&wrong("LOCAL_RANK", ""), &["LOCAL_RANK is not set"]);
    says(&wrong("MASTER_ADDR", ""), &["MASTER_ADDR is not set"]);
}

#[test]
fn more_processes_than_gpus_is_an_error_that_says_so() {
    let mut command = bench(&["--shape", "per-gpu", "--gpus", "0", "--rank", "1", "--world", "4"]);
    let output = finish(command.args(["--peer", "127.0.0.1"]).spawn().unwrap());
    says(&output, &["process 1 of its host", "--gpus names 1 of them"]);
    assert_eq!(text(&output.stdout), "");
}
