#!/bin/bash
# bundle-load-test.sh

# Test bundle loading performance
for i in {1..10}; do
    rm -rf .demon/contracts/
    time demonctl contracts fetch-bundle --tag contracts-latest > /dev/null
    echo "Iteration $i complete"
done

# Test concurrent access
for i in {1..5}; do
    (curl -s localhost:3000/api/contracts/status > /dev/null) &
done
wait

echo "Load test complete"
