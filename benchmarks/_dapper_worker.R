# Runs R's dapper on one of its problems: Rscript _dapper_worker.R problem.txt draws.csv
#
# The problem holds its name, the release, the number of sweeps and of those thrown away, and a seed. Written are the draws;
# printed is the CPU time of dapper_sample in seconds, and the mean acceptance. The four functions of each
# problem are vectorised where dapper lets them be.

suppressMessages(library(dapper))
arguments <- commandArgs(trailingOnly = TRUE)
numbers <- function(key) {
  # the problem is one "key value value ..." a line
  lines <- strsplit(readLines(arguments[1]), " ")
  row <- Filter(function(line) line[1] == key, lines)[[1]][-1]
  suppressWarnings(if (anyNA(as.numeric(row))) row else as.numeric(row))
}
name <- numbers("name")
release <- numbers("release")
n <- numbers("n")

dirichlet_posterior <- function(dmat, theta) {
  g <- rgamma(4, 1 + colSums(dmat))
  g / sum(g)
}
categories <- function(theta) t(rmultinom(n, 1, theta))

if (name == "mean") {
  posterior_f <- function(dmat, theta) {
    precision <- 1 / 4 + n
    rnorm(1, sum(dmat) / precision, sqrt(1 / precision))
  }
  latent_f <- function(theta) matrix(rnorm(n, theta), ncol = 1)
  statistic_f <- function(xi, sdp, i) xi
  mechanism_f <- function(sdp, sx) dnorm(sdp, sx / n, 1 / 3, log = TRUE)
  start <- -2
} else if (name == "linreg") {
  m <- c(0.9, -1.17)
  posterior_f <- function(dmat, theta) {
    X <- cbind(1, dmat[, 1:2])
    R <- chol(crossprod(X) / 2 + diag(3) / 4)
    centre <- backsolve(R, forwardsolve(t(R), crossprod(X, dmat[, 3]) / 2))
    c(centre + backsolve(R, rnorm(3)))
  }
  latent_f <- function(theta) {
    X <- cbind(rnorm(n, m[1]), rnorm(n, m[2]))
    cbind(X, theta[1] + X %*% theta[2:3] + rnorm(n, 0, sqrt(2)))
  }
  # entries: sums of y, x1 y, x2 y, y^2, x1, x1^2, x2, x1 x2, x2^2
  statistic_f <- function(xi, sdp, i) {
    z <- pmin(pmax(xi, -10), 10) / 10
    c(z[3], z[1] * z[3], z[2] * z[3], z[3]^2, z[1], z[1]^2, z[2], z[1] * z[2], z[2]^2)
  }
  scale <- numbers("scale")
  mechanism_f <- function(sdp, sx) -sum(abs(sdp - sx)) / scale
  start <- rep(0, 3)
} else if (name == "table") {
  posterior_f <- dirichlet_posterior
  latent_f <- categories
  statistic_f <- function(xi, sdp, i) xi
  sigma <- numbers("scale")
  mechanism_f <- function(sdp, sx) sum(ddnorm(sdp - sx, 0, sigma, log = TRUE))
  start <- rep(0.25, 4)
} else if (name == "rr") {
  posterior_f <- dirichlet_posterior
  latent_f <- categories
  bit <- matrix(c(0.75, 0.25, 0.25, 0.75), 2)
  log_Q <- log(kronecker(bit, bit))
  statistic_f <- function(xi, sdp, i) log_Q[which.max(xi), sdp[i] + 1]
  mechanism_f <- function(sdp, sx) sx
  start <- rep(0.25, 4)
}

model <- new_privacy(
  posterior_f = posterior_f, latent_f = latent_f, mechanism_f = mechanism_f,
  statistic_f = statistic_f, npar = length(start)
)
sweeps <- numbers("sweeps")
warmup <- numbers("warmup")
set.seed(numbers("seed"))
time <- system.time(
  out <- dapper_sample(model, sdp = release, init_par = start, niter = sweeps, warmup = warmup)
)
write.table(as.matrix(out$chain), arguments[2], sep = ",", row.names = FALSE, col.names = FALSE)
cat(time[["user.self"]] + time[["sys.self"]], mean(out$mean_accept), "\n")
