// What the clients of Node.js wait for.

const sleep = (seconds) => new Promise((resolve) => setTimeout(resolve, seconds * 1000));

// Wait until it is so, ten seconds at most.
async function until(found) {
    for (let left = 1000; left > 0 && !found(); left -= 1) await sleep(0.01);
}

module.exports = {sleep, until};
